//! The mounts of this thread's namespace, in the kernel's list.

use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The thread's file, not the process's, so that a test can have a mount namespace of its own.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One mount: a line of mountinfo, proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountInfo {
    /// The mount point.
    pub(crate) point: PathBuf,
    /// Whether the mount is read-only, even if its file system is writable.
    pub(crate) read_only: bool,
    /// Its peer group, if it is shared.
    pub(crate) shared: Option<u64>,
}

impl MountInfo {
    /// Parses a line; `None` if it is invalid.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = unescape(fields.nth(4)?);
        let read_only = fields
            .next()?
            .split(|byte| *byte == b',')
            .any(|option| option == b"ro");
        let shared = fields
            .take_while(|field| *field != b"-")
            .find_map(|field| field.strip_prefix(b"shared:"))
            .and_then(|group| std::str::from_utf8(group).ok()?.parse().ok());
        Some(Self {
            point,
            read_only,
            shared,
        })
    }
}

/// All mounts, in the kernel's order: a mount comes after the one below it.
///
/// # Errors
/// [`crate::Error::Io`] if mountinfo cannot be read.
pub(crate) fn read() -> Result<Vec<MountInfo>> {
    let text = std::fs::read(MOUNTINFO).on("read", MOUNTINFO)?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(MountInfo::parse).collect())
}

/// `path` in the form of mountinfo: links in its parent are resolved; a link in its last
/// component is not followed. `None` if the parent does not exist.
///
/// # Errors
/// [`crate::Error::Io`] if the parent cannot be resolved.
pub(crate) fn spelled(path: &Path) -> Result<Option<PathBuf>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Some(path.to_owned()));
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(Some(parent.join(name))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).on("resolve", parent),
    }
}

/// Decodes the octal escapes of a field.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                path.push(code);
                rest = &tail[3..];
            }
            None => {
                path.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let parse = |line: &str| MountInfo::parse(line.as_bytes());
        let line =
            r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:27 - ext3 /dev/root rw";
        let expected = MountInfo {
            point: r"/mnt 2\x".into(),
            read_only: false,
            shared: Some(27),
        };
        assert_eq!(parse(line), Some(expected));
        // Fields after the separator are the file system's: similar ones there are ignored.
        let line = "36 35 98:0 / /mnt rw - fuse.x shared:5 rw";
        assert_eq!(parse(line).unwrap().shared, None);
        assert!(
            !parse("36 35 98:0 / /mnt rw - ext4 /dev/x ro")
                .unwrap()
                .read_only
        );
        assert!(
            parse("36 35 98:0 / /mnt ro,noatime - ext4 /dev/x rw")
                .unwrap()
                .read_only
        );
        assert_eq!(parse(""), None);
    }

    #[test]
    fn links_on_the_way_to_a_mount_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink("a", real.join("link")).unwrap();

        let of = |path: &str| spelled(&real.join(path)).unwrap();

        assert_eq!(of("link/b"), Some(real.join("a/b")));
        assert_eq!(of("link"), Some(real.join("link")));
        assert_eq!(of("absent/b"), None);
    }
}
