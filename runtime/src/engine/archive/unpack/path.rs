//! Names of entries, checked and split.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Failure;

/// The prefix of whiteouts (image spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// The rest of the names of AUFS's own files in Docker's layers, other than [`OPAQUE`]. They
/// are ignored.
const AUFS: &[u8] = b".wh.";

/// The rest of the name that makes its directory opaque, after [`WHITEOUT`].
const OPAQUE: &[u8] = b".wh..opq";

/// What a whiteout hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden<'a> {
    /// Everything in its directory in the layers below.
    Directory,
    /// This name in its directory.
    Name(&'a OsStr),
    /// Nothing.
    Nothing,
}

/// The name of an entry, relative to the layer's root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath(PathBuf);

impl EntryPath {
    pub(super) fn parse(name: &[u8]) -> Result<Self, Failure> {
        if name.starts_with(b"/") {
            return Err(Failure::Refused("its name is absolute"));
        }
        if name.contains(&0) {
            return Err(Failure::Refused("its name contains a NUL"));
        }
        let mut path = PathBuf::new();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Failure::Refused("its name contains ..")),
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        Ok(Self(path))
    }

    /// The parent directory and the name in it; `None` for the root.
    pub(super) fn split(&self) -> Option<(&Path, &OsStr)> {
        Some((self.0.parent()?, self.0.file_name()?))
    }

    /// What it hides, if it is a whiteout.
    pub(super) fn whiteout(&self) -> Result<Option<Hidden<'_>>, Failure> {
        let Some((parent, name)) = self.split() else {
            return Ok(None);
        };
        let mut above = parent.iter();
        if above.any(|part| part.as_bytes().starts_with(WHITEOUT)) {
            return Err(Failure::Refused("it lies below a whiteout"));
        }
        let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else {
            return Ok(None);
        };
        match hidden {
            OPAQUE => Ok(Some(Hidden::Directory)),
            b"" | b"." | b".." => Err(Failure::Refused("it is a whiteout without a name")),
            other if other.starts_with(AUFS) => Ok(Some(Hidden::Nothing)),
            other => Ok(Some(Hidden::Name(OsStr::from_bytes(other)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> EntryPath {
        EntryPath::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"] {
            assert!(EntryPath::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(path("./a//b/"), path("a/b"));
        assert_eq!(path("./").split(), None);
        assert_eq!(path("a").split(), Some((Path::new(""), OsStr::new("a"))));
    }

    #[test]
    fn whiteouts_hide_names_and_directories() {
        let hidden = |name: &str| path(name).whiteout().map(|h| format!("{h:?}"));
        assert_eq!(hidden("a/.wh.b").unwrap(), "Some(Name(\"b\"))");
        assert_eq!(hidden("a/.wh..wh..opq").unwrap(), "Some(Directory)");
        assert_eq!(hidden(".wh..wh.plnk").unwrap(), "Some(Nothing)");
        assert_eq!(hidden("a/b").unwrap(), "None");
        for bad in [".wh.", ".wh...", ".wh..", ".wh.a/b"] {
            assert!(path(bad).whiteout().is_err(), "{bad}");
        }
    }
}
