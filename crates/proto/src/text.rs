//! Words of others, made fit to be shown: one line, of bounded length, that does to a terminal what letters do.

/// Whether a terminal, a log or a page may be given this character.
///
/// Refused are control characters, and those that have no shape of their own but change how others are read: marks that
/// turn the direction of writing around, and separators of lines.
pub fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// `text` as one line of at most `len_max` bytes, which are at least three.
pub fn one_line(text: &str, len_max: usize) -> String {
    let mut line: String =
        text.chars().map(|c| if is_shown(c) { c } else { ' ' }).collect::<String>().trim().to_owned();
    if line.len() > len_max {
        let room = len_max.saturating_sub('…'.len_utf8());
        let end = (0..=room).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_a_blank() {
        assert_eq!(one_line(" a\tb\n\u{1b}[31m\u{202e}c\u{9b}d ", 100), "a b  [31m c d");
        assert_eq!(one_line("grün ✓ 日本", 100), "grün ✓ 日本");
        assert_eq!(one_line("\u{200b}\n", 100), "");
    }

    #[test]
    fn a_line_ends_between_characters() {
        for len_max in 3..20 {
            let line = one_line(&"ä".repeat(100), len_max);
            assert!(line.len() <= len_max && line.ends_with('…'), "{line}");
        }
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abc…");
    }
}
