//! What a name, an id or the beginning of an id stands for: one thing, or none.

use crate::error::{Error, Result};

/// Whether this may be the beginning of an id.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The one thing of those that match `wanted`; `describe` gives the name by which it can be
/// told from the others.
///
/// # Errors
/// [`Error::Ambiguous`] naming all if there are several.
pub fn only_one<T>(
    mut found: Vec<T>,
    what: &'static str,
    wanted: &str,
    describe: impl Fn(&T) -> String,
) -> Result<Option<T>> {
    if found.len() > 1 {
        return Err(Error::Ambiguous {
            what,
            id: wanted.to_owned(),
            matches: found.iter().map(describe).collect(),
        });
    }
    Ok(found.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_is_never_taken() {
        let find = |found: &[u8]| only_one(found.to_vec(), "pod", "w", |n| format!("w{n}"));
        assert_eq!(find(&[]).unwrap(), None);
        assert_eq!(find(&[7]).unwrap(), Some(7));
        let error = find(&[7, 8]).unwrap_err();
        assert!(matches!(&error, Error::Ambiguous { matches, .. } if matches == &["w7", "w8"]));
    }

    #[test]
    fn ids_are_hexadecimal_and_not_longer_than_one() {
        assert!(is_id("0fA"));
        for other in ["", "0g", &"0".repeat(65)] {
            assert!(!is_id(other), "{other}");
        }
    }
}
