//! The key sequence for detaching from a process.

use crate::cli::error::CliResult;

/// Parses keys as podman writes them: `ctrl-X` and plain characters, joined by commas.
pub(crate) fn parse_keys(text: &str) -> CliResult<Vec<u8>> {
    let key = |word: &str| {
        let bytes = word.as_bytes();
        match word.strip_prefix("ctrl-").map(str::as_bytes) {
            // ASCII: Ctrl takes the upper three bits of a letter away.
            Some([c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => Ok(c & 0x1f),
            None if bytes.len() == 1 => Ok(bytes[0]),
            _ => {
                let expected = "a character, or ctrl- with one of a-z @ [ \\ ] ^ _";
                Err(runtime::Error::invalid("detach key", word, expected))
            }
        }
    };
    let words = text.split(',').filter(|word| !word.is_empty());
    Ok(words.map(key).collect::<Result<_, _>>()?)
}

/// Finds the detach keys in the input.
pub(crate) struct Detacher {
    keys: Vec<u8>,
    matched: usize,
}

impl Detacher {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// The bytes to pass on, and whether the sequence is complete. The beginning of the
    /// sequence is held back until the next bytes decide.
    pub(crate) fn filter(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (data.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(data.len());
        for byte in data {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(*byte);
            } else if self.keys.len() == 1 {
                return (pass, true);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_podman_has_them() {
        assert_eq!(parse_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(parse_keys("a,b").unwrap(), *b"ab");
        assert!(parse_keys("").unwrap().is_empty());
        assert_eq!(parse_keys("ctrl-@,ctrl-[,ctrl-_").unwrap(), [0, 27, 31]);
        for bad in ["ctrl-", "alt-x", "ctrl-A", "ctrl-1", "ab"] {
            let said = parse_keys(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("{bad:?}")), "{said}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_lost() {
        let mut detacher = Detacher::new(vec![16, 17]);
        assert_eq!(detacher.filter(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(detacher.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(detacher.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detacher.filter(b"\x11y"), (Vec::new(), true));
    }
}
