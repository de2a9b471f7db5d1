//! Makes text from a guest, or from a process that a guest may control, safe for errors and
//! logs.

/// One line of at most `max` bytes, without characters that control a terminal; the end reports
/// the number of cut bytes.
pub fn one_line(text: &str, max: usize) -> String {
    escape(text, max, is_control)
}

/// As [`one_line`], but keeps line ends.
pub fn lines(text: &str, max: usize) -> String {
    escape(text, max, |c| c != '\n' && is_control(c))
}

/// Control characters, and characters that change the direction of writing (Unicode's
/// Bidi_Control) or end a line.
fn is_control(c: char) -> bool {
    let turns = '\u{202a}'..='\u{202e}';
    let isolates = '\u{2066}'..='\u{2069}';
    c.is_control()
        || turns.contains(&c)
        || isolates.contains(&c)
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
}

fn escape(text: &str, max: usize, is_control: impl Fn(char) -> bool) -> String {
    let mut kept = String::with_capacity(text.len().min(max));
    for (at, c) in text.char_indices() {
        let before = kept.len();
        match c {
            c if is_control(c) => kept.extend(c.escape_default()),
            c => kept.push(c),
        }
        if kept.len() > max {
            kept.truncate(before);
            return format!("{kept}… ({} bytes more)", text.len() - at);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_cuts_are_marked() {
        assert_eq!(one_line("a\x1b]0;x\x07\nü", 99), "a\\u{1b}]0;x\\u{7}\\nü");
        assert_eq!(
            one_line("txt.\u{202e}exe\u{9b}2J", 99),
            "txt.\\u{202e}exe\\u{9b}2J"
        );
        assert_eq!(lines("one\r\ntwo", 99), "one\\r\ntwo");
        assert_eq!(one_line("0123456789", 4), "0123… (6 bytes more)");
        assert_eq!(one_line("üüü", 3), "ü… (4 bytes more)");
        // An escape is kept or cut as a whole.
        assert_eq!(one_line("a\x1b", 5), "a… (1 bytes more)");
        let long = one_line(&"\x1b".repeat(4 << 20), 4096);
        assert!(long.len() < 4200, "{}", long.len());
    }

    #[test]
    fn exactly_these_characters_are_escaped() {
        let escaped = |c: char| one_line(&c.to_string(), 99) != c.to_string();
        let found: Vec<u32> = (0..0x3000)
            .filter(|code| char::from_u32(*code).is_some_and(escaped))
            .collect();
        // Cc; Bidi_Control; the separators of lines and paragraphs.
        let mut expected: Vec<u32> = (0..0x20).chain(0x7f..0xa0).collect();
        expected.push(0x61c);
        expected.extend([0x200e, 0x200f]);
        expected.extend(0x2028..=0x202e);
        expected.extend(0x2066..=0x2069);
        assert_eq!(found, expected);
    }

    #[test]
    fn text_is_cut_after_the_last_byte_that_fits() {
        assert_eq!(one_line("12345", 5), "12345");
        assert_eq!(one_line("123456", 5), "12345… (1 bytes more)");
        assert_eq!(lines("a\nb\nc", 3), "a\nb… (2 bytes more)");
        assert_eq!(one_line("", 0), "");
        assert_eq!(one_line("x", 0), "… (1 bytes more)");
    }
}
