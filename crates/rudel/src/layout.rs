//! Tables, wrapped texts, and numbers as people read them.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

pub(crate) const PLAIN: Style = Style::new();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`, and nothing else after it.
pub(crate) fn paint(style: Style, text: &str) -> String {
    if style == PLAIN || text.is_empty() { text.to_owned() } else { format!("{style}{text}{style:#}") }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column: its header, its side, and how many characters of its cells are shown.
pub(crate) struct Column {
    pub(crate) header: &'static str,
    pub(crate) align: Align,
    pub(crate) max: usize,
}

impl Column {
    pub(crate) const fn left(header: &'static str, max: usize) -> Self {
        Column { header, align: Align::Left, max }
    }

    pub(crate) const fn right(header: &'static str) -> Self {
        Column { header, align: Align::Right, max: usize::MAX }
    }
}

/// A cell: its text and how it looks.
pub(crate) struct Cell(pub(crate) String, pub(crate) Style);

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell(text, PLAIN)
    }
}

/// A row: its cells, a text that begins behind them and is wrapped below itself, and lines below it.
pub(crate) struct Row {
    pub(crate) cells: Vec<Cell>,
    pub(crate) tail: String,
    pub(crate) below: Vec<String>,
}

/// Renders a table at most `width` wide, as far as its columns allow. The header of the tails is `tail_header`.
pub(crate) fn table(columns: &[Column], tail_header: &str, rows: &[Row], width: usize) -> String {
    const GAP: usize = 2;
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let cells = rows.iter().map(|row| row.cells[i].0.chars().count());
            cells.chain([column.header.chars().count()]).max().unwrap_or(0).min(column.max)
        })
        .collect();
    let line = |cells: Vec<(&str, Style)>| {
        let mut line = String::new();
        for ((column, width), (text, style)) in columns.iter().zip(&widths).zip(cells) {
            let text = shorten(text, column.max);
            let space = " ".repeat(width - text.chars().count());
            match column.align {
                Align::Left => line.push_str(&(paint(style, &text) + &space)),
                Align::Right => line.push_str(&(space + &paint(style, &text))),
            }
            line.push_str(&" ".repeat(GAP));
        }
        line
    };
    let indent = widths.iter().map(|width| width + GAP).sum();
    let mut out = String::new();
    let headers = line(columns.iter().map(|column| (column.header, DIM)).collect());
    out.push_str(format!("{headers}{}", paint(DIM, tail_header)).trim_end());
    out.push('\n');
    for row in rows {
        let cells = line(row.cells.iter().map(|cell| (cell.0.as_str(), cell.1)).collect());
        let room = width.saturating_sub(indent);
        let longest = row.tail.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
        if longest <= room {
            let mut lines = wrap(&row.tail, room).into_iter();
            out.push_str(format!("{cells}{}", lines.next().unwrap_or_default()).trim_end());
            out.push('\n');
            lines.for_each(|line| out.push_str(&format!("{}{line}\n", " ".repeat(indent))));
        } else {
            // It has words that do not fit beside the cells: below them there is more room.
            out.push_str(cells.trim_end());
            out.push('\n');
            wrap(&row.tail, width.saturating_sub(4))
                .iter()
                .for_each(|line| out.push_str(&format!("    {line}\n")));
        }
        row.below.iter().for_each(|line| out.push_str(&format!("    {line}\n")));
    }
    out
}

/// Breaks a text between words into lines of at most `width` characters; longer words stand alone.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// At most `max` characters of a text, the last of them an ellipsis if there are more. No control characters.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    if text.chars().count() <= max {
        return clean.collect();
    }
    clean.take(max.saturating_sub(1)).chain(['…']).collect()
}

/// `312 ms`, `12 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn span(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..10 => format!("{} ms", duration.as_millis()),
        10..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

/// How long ago something was: `just now`, `5 s ago`, `3 min ago`.
pub(crate) fn ago(age: Duration) -> String {
    match age.as_secs() {
        0 => "just now".to_owned(),
        s @ 1..10 => format!("{s} s ago"),
        _ => format!("{} ago", span(age)),
    }
}

/// A count in at most six characters: `99999`, `123.4k`, `12.3M`.
pub(crate) fn count(n: u64) -> String {
    if n < 100_000 {
        return n.to_string();
    }
    let mut value = n as f64;
    for unit in ["k", "M", "G", "T", "P", "E"] {
        value /= 1000.0;
        // Not to be rounded up to four digits before the point.
        if value < 999.95 {
            return format!("{value:.1}{unit}");
        }
    }
    format!("{value:.1}E")
}

/// `1 bucket`, `7 buckets`: a number with what it counts.
pub(crate) fn counted(n: impl Into<u64>, noun: &str) -> String {
    match n.into() {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// `keeps 12 connections in 7 buckets`: what a node that gives buckets up still serves.
pub(crate) fn keeping(buckets: u16, connections: Option<u32>) -> String {
    match connections.filter(|n| *n > 0) {
        Some(n) => format!("keeps {} in {}", counted(n, "connection"), counted(buckets, "bucket")),
        None => format!("keeps connections in {}", counted(buckets, "bucket")),
    }
}

/// A share of all buckets: `33.6%`.
pub(crate) fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_one_unit() {
        let span = |ms| span(Duration::from_millis(ms));
        assert_eq!([span(0), span(312), span(9_999)], ["0 ms", "312 ms", "9999 ms"]);
        assert_eq!([span(10_000), span(119_000), span(120_000)], ["10 s", "119 s", "2 min"]);
        assert_eq!([span(7_200_000), span(172_800_000)], ["2 h", "2 d"]);
        assert_eq!(ago(Duration::from_millis(900)), "just now");
        assert_eq!(ago(Duration::from_secs(9)), "9 s ago");
        assert_eq!(ago(Duration::from_secs(180)), "3 min ago");
    }

    #[test]
    fn counts_have_at_most_six_characters() {
        assert_eq!(
            [0, 99_999, 100_000, 999_949, 999_950].map(count),
            ["0", "99999", "100.0k", "999.9k", "1.0M"]
        );
        assert_eq!(count(12_345_678), "12.3M");
        for n in (0..64).map(|bits| u64::MAX >> bits) {
            assert!(count(n).len() <= 6, "{n}");
        }
    }

    #[test]
    fn texts_are_wrapped_between_words() {
        assert_eq!(wrap("no pulse for 400 ms", 10), ["no pulse", "for 400 ms"]);
        assert_eq!(wrap("a-very-long-word b", 4), ["a-very-long-word", "b"]);
        assert_eq!(wrap("", 4), Vec::<String>::new());
        assert_eq!(wrap("a\u{1b}[2J", 10), ["a?[2J"]);
    }

    #[test]
    fn tables_stay_within_their_width() {
        let columns = [Column::left("NAME", 8), Column::right("N")];
        let row = |name: &str, tail: &str| Row {
            cells: vec![name.to_owned().into(), "7".to_owned().into()],
            tail: tail.to_owned(),
            below: vec![],
        };
        let rows = [row("a", "one two three"), row("a-long-name", ""), row("b", "a-word-too-long")];
        assert_eq!(
            anstream::adapter::strip_str(&table(&columns, "TAIL", &rows, 22)).to_string(),
            "NAME      N  TAIL\n\
             a         7  one two\n             three\n\
             a-long-…  7\n\
             b         7\n    a-word-too-long\n"
        );
    }
}
