//! Text of limited length.

/// Cuts a text to about `max` bytes, between two characters.
pub fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_where_it_is_too_long() {
        for (text, max, cut) in [
            ("abc", 2, "ab..."),
            ("abc", 3, "abc"),
            ("abc", 4, "abc"),
            ("", 0, ""),
            ("a", 0, "..."),
            ("aü", 2, "a..."),
            ("üü", 2, "ü..."),
            ("ü", 1, "..."),
        ] {
            let mut cut_text = text.to_owned();
            truncate(&mut cut_text, max);
            assert_eq!(cut_text, cut, "{text} {max}");
        }
    }
}
