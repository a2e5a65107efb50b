//! What the demo and the benchmarks print: plain lines, a few colours where a terminal shows them.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// The terminal, or the pipe that is there in its place.
#[derive(Debug)]
pub(crate) struct Screen {
    colour: bool,
    /// Of the terminal, if it is one.
    width: Option<usize>,
    broken: usize,
    checks: Vec<(bool, String)>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            colour: wanted && std::io::stdout().is_terminal(),
            width: terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0.into()),
            broken: 0,
            checks: Vec::new(),
        }
    }

    /// How many characters are left on a line behind so many.
    pub(crate) fn room(&self, behind: usize) -> usize {
        self.width.unwrap_or(usize::MAX).saturating_sub(behind)
    }

    /// A sentence in lines that the terminal does not break by itself, all but the first indented as it begins.
    fn folded(&self, text: &str) -> String {
        const INDENT: usize = 3;
        let room = self.room(INDENT).max(20);
        if text.chars().count() <= room {
            return text.to_owned();
        }
        let (mut out, mut column) = (String::new(), 0);
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > room {
                out.push_str(&format!("\n{:INDENT$}", ""));
                column = 0;
            } else if column > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
        }
        out
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn line(&self, text: impl Display) {
        // A reader that has gone away is no reason to leave a lab behind, as a panic of println! would.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    pub(crate) fn heading(&self, text: impl Display) {
        let text = self.folded(&text.to_string());
        self.line(format!("\n{}", self.paint("1", text)));
    }

    pub(crate) fn note(&self, text: impl Display) {
        self.line(format!("   {text}"));
    }

    /// A note that is a sentence, and may be folded.
    pub(crate) fn tell(&self, text: impl Display) {
        self.note(self.folded(&text.to_string()));
    }

    /// Says whether a promise was kept, and remembers it for the summary.
    pub(crate) fn check(&mut self, kept: bool, text: impl Display) {
        let text = text.to_string();
        self.line(self.mark(kept, &text));
        self.broken += usize::from(!kept);
        self.checks.push((kept, text));
    }

    fn mark(&self, kept: bool, text: &str) -> String {
        let mark = if kept { self.paint("32", "✓") } else { self.paint("1;31", "✗") };
        format!(" {mark} {}", self.folded(text))
    }

    /// A bar for a share between 0 and 1, as wide as `width` characters at 1.
    pub(crate) fn bar(&self, share: f64, width: usize) -> String {
        let filled = (share * width as f64).round().clamp(0.0, width as f64) as usize;
        format!("{}{}", self.paint("36", "█".repeat(filled)), self.paint("2", "·".repeat(width - filled)))
    }

    /// The summary of all checks; true if every promise was kept.
    pub(crate) fn summary(&self) -> bool {
        self.heading("Summary");
        for (kept, text) in &self.checks {
            self.line(self.mark(*kept, text));
        }
        let kept = self.checks.len() - self.broken;
        let words = format!("{kept} of {} promises kept", self.checks.len());
        self.line(format!("\n   {}", self.paint(if self.broken == 0 { "1;32" } else { "1;31" }, words)));
        self.broken == 0
    }
}

/// A duration for people: `0.42 ms`, `87 ms`, `1.25 s`.
pub(crate) fn human(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

/// A share for people: `33.6 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(human(Duration::from_micros(420)), "0.42 ms");
        assert_eq!(human(Duration::from_millis(87)), "87 ms");
        assert_eq!(human(Duration::from_millis(1250)), "1.25 s");
        assert_eq!(percent(86.0 / 256.0), "33.6 %");
    }

    #[test]
    fn bars_have_one_width() {
        let screen = Screen { colour: false, width: None, broken: 0, checks: Vec::new() };
        for share in [0.0, 0.004, 0.5, 1.0, 1.7] {
            assert_eq!(screen.bar(share, 20).chars().count(), 20);
        }
        assert_eq!(screen.bar(0.5, 4), "██··");
    }

    #[test]
    fn sentences_are_folded_between_words() {
        let screen = Screen { colour: false, width: Some(30), broken: 0, checks: Vec::new() };
        assert_eq!(
            screen.folded("every node answers its share of flows"),
            "every node answers its\n   share of flows"
        );
        assert_eq!(screen.folded("short,  and aligned"), "short,  and aligned");
        let pipe = Screen { width: None, ..screen };
        assert!(!pipe.folded(&"word ".repeat(100)).contains('\n'));
    }
}
