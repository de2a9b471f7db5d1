//! What an entry has besides its content: owner, mode, time, extended attributes.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, lgetxattr,
    llistxattr, lsetxattr, statat, utimensat,
};
use rustix::io::Errno;

use super::entries::Entry;
use super::tree::Failure;

/// How GNU tar, Go and libarchive name extended attributes in pax headers.
pub(in crate::engine) const XATTR: &str = "SCHILY.xattr.";

/// Overlayfs's own: a layer that brings them could show what is elsewhere.
const OVERLAY: &str = "trusted.overlay.";

/// Sparse files in pax headers, which would come out as something else.
const GNU_SPARSE: &str = "GNU.sparse.";

/// The owner, mode, time and extended attributes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: (i64, i64),
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Of an entry.
    pub(super) fn of(entry: &Entry) -> Result<Self, Failure> {
        let header = &entry.header;
        let number = |n: std::io::Result<u64>| n.ok().and_then(|n| u32::try_from(n).ok());
        let (Some(uid), Some(gid)) = (number(header.uid()), number(header.gid())) else {
            return Err(Failure::Refused("its owner is no 32-bit number"));
        };
        let mode = header
            .mode()
            .map_err(|_| Failure::Refused("its mode is no number"))?;
        let seconds = header.mtime().ok().and_then(|s| i64::try_from(s).ok());
        let mut attributes = Self {
            uid,
            gid,
            mode: mode & 0o7777,
            mtime: (seconds.unwrap_or(0), 0),
            xattrs: Vec::new(),
        };
        for (key, value) in &entry.records {
            attributes.extend(key, value)?;
        }
        Ok(attributes)
    }

    fn extend(&mut self, key: &str, value: &[u8]) -> Result<(), Failure> {
        if key == "mtime" {
            self.mtime = time(value).ok_or(Failure::Refused("its time is no number"))?;
        } else if key.starts_with(GNU_SPARSE) {
            return Err(Failure::Refused("it is a sparse file in pax format"));
        } else if let Some(name) = key.strip_prefix(XATTR) {
            if name.starts_with(OVERLAY) {
                return Err(Failure::Refused("it has an attribute of overlayfs's own"));
            }
            let name = CString::new(name)
                .map_err(|_| Failure::Refused("an attribute's name has a NUL in it"))?;
            self.xattrs.push((name, value.to_vec()));
        }
        Ok(())
    }

    /// Of a directory that is there.
    pub(in crate::engine) fn read(path: &Path) -> Result<Self, Failure> {
        let stat = rustix::fs::lstat(path).map_err(|e| Failure::io("look at", e))?;
        let mut names = vec![0; 64 << 10]; // XATTR_LIST_MAX, xattr(7)
        let size = match llistxattr(path, &mut names[..]) {
            Err(Errno::NOTSUP) => 0,
            other => other.map_err(|e| Failure::io("list the attributes of", e))?,
        };
        let mut xattrs = Vec::new();
        for name in names[..size].split(|byte| *byte == 0) {
            if name.is_empty() || name.starts_with(OVERLAY.as_bytes()) {
                continue;
            }
            let Ok(name) = CString::new(name) else {
                continue;
            };
            let mut value = vec![0; 64 << 10]; // XATTR_SIZE_MAX, xattr(7)
            let read = lgetxattr(path, &name, &mut value[..]);
            let size = read.map_err(|e| Failure::io("read an attribute of", e))?;
            value.truncate(size);
            xattrs.push((name, value));
        }
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            xattrs,
        })
    }

    /// The same, of another owner.
    pub(super) fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// Its extended attributes.
    pub(in crate::engine) fn xattrs(&self) -> impl Iterator<Item = (&CString, &[u8])> {
        self.xattrs.iter().map(|(name, value)| (name, &**value))
    }

    /// When it was last changed.
    pub(super) fn mtime(&self) -> (i64, i64) {
        self.mtime
    }

    /// Gives them to `name` in `dir`. The mode comes after the owner, whose
    /// change clears set-id bits, and so do file capabilities.
    pub(in crate::engine) fn apply(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let link = AtFlags::SYMLINK_NOFOLLOW;
        chownat(dir, name, Some(uid), Some(gid), link)
            .map_err(|e| Failure::io("give its owner to", e))?;
        let kind = statat(dir, name, link).map_err(|e| Failure::io("look at", e))?;
        let symlink = rustix::fs::FileType::from_raw_mode(kind.st_mode).is_symlink();
        if !symlink {
            let mode = Mode::from_raw_mode(self.mode);
            chmodat(dir, name, mode, AtFlags::empty())
                .map_err(|e| Failure::io("set the mode of", e))?;
        }
        let path = path_of(dir, name);
        for (name, value) in &self.xattrs {
            match lsetxattr(&path, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => {
                    log::warn!("{}: no attribute {name:?} can be set here", path.display());
                }
                Err(e) => return Err(Failure::io("set an attribute of", e)),
            }
        }
        set_time(dir, name, self.mtime)
    }
}

/// Sets when `name` in `dir` was last changed.
pub(super) fn set_time(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    (seconds, nanos): (i64, i64),
) -> Result<(), Failure> {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos as _,
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Failure::io("set the time of", e))
}

/// A path to `name` in `dir`, for calls that take no descriptor.
pub(in crate::engine) fn path_of(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name)
}

/// Seconds with a fraction, as pax headers have them (pax(1), "mtime").
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: i64 = digits.parse().ok()?;
    // Before 1970 the fraction counts towards it.
    Some(match (text.starts_with('-'), nanos) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanos),
        _ => (seconds, nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"1.0123456789"), Some((1, 12_345_678)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        for bad in [&b"x"[..], b"", b"1.x", b"1.-5"] {
            assert_eq!(time(bad), None);
        }
    }
}
