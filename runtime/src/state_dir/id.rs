//! Ids: the names of directories, sockets and cgroups.

use rand::RngExt;

use crate::error::{Error, Result};

/// Checks that a name can be a file name: containerd's identifier rule.
///
/// # Errors
/// [`Error::InvalidValue`] naming `what`.
pub fn check_id(what: &'static str, id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.len() > 128 || id.starts_with(['.', '-']) || !id.chars().all(plain) {
        let expected = "1 to 128 letters, digits, '_', '-' or '.', not starting with '.' or '-'";
        return Err(Error::invalid(what, id, expected));
    }
    Ok(())
}

/// 64 random hexadecimal digits.
pub fn new_id() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill(&mut bytes[..]);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", ".vm", "a b", "-x", "a\0"] {
            assert!(check_id("pod id", bad).is_err(), "{bad:?}");
        }
        check_id("pod id", "default").unwrap();
        check_id("pod id", "a.b_c-1").unwrap();
    }

    #[test]
    fn new_ids_are_good_file_names() {
        let id = new_id();
        assert_eq!(id.len(), 64);
        check_id("id", &id).unwrap();
        assert_ne!(id, new_id());
    }

    #[test]
    fn ids_are_as_containerd_has_them_up_to_their_length() {
        for good in ["a", "A9", "0", "_a", "a-", "a.", "a..b", &"x".repeat(128)] {
            check_id("pod id", good).unwrap();
        }
        for bad in ["-", ".a", "ä", "a\n", "a:b", "a+b", "~a", &"x".repeat(129)] {
            let refused = check_id("pod id", bad).unwrap_err();
            assert_eq!(
                refused.kind(),
                crate::error::ErrorKind::InvalidArgument,
                "{bad:?}"
            );
            assert!(
                refused.to_string().contains(&format!("pod id {bad:?}")),
                "{refused}"
            );
        }
    }
}
