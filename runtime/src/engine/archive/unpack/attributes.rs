//! The attributes of an entry: owner, mode, time, extended attributes.

use std::ffi::CString;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, getxattr,
    listxattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::entries::Entry;
use super::error::Failure;
use crate::engine::archive::Inode;
use crate::engine::archive::sparse;

/// The prefix of extended attributes in pax headers, as GNU tar, Go and libarchive write them.
pub(in crate::engine) const XATTR: &str = "SCHILY.xattr.";

/// The prefix of overlayfs's own attributes: in a layer they could expose files from elsewhere.
const OVERLAY: &str = "trusted.overlay.";

/// The prefixes of the kernel's own attributes: capabilities, labels, overlayfs's marks.
const KERNELS: [&[u8]; 2] = [b"security.", b"trusted."];

/// The set-user-id and set-group-id bits.
const SET_ID: u32 = 0o6000;

/// The most bytes of extended attributes read of one file: more would not fit into the header
/// of an archive, either (`MAX_EXTENSION`).
const MAX_XATTRS: usize = 512 << 10;

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
    /// The attributes of an entry.
    pub(super) fn of(entry: &Entry) -> Result<Self, Failure> {
        let header = &entry.header;
        let number = |n: std::io::Result<u64>| n.ok().and_then(|n| u32::try_from(n).ok());
        let (Some(uid), Some(gid)) = (number(header.uid()), number(header.gid())) else {
            return Err(Failure::Refused("its owner is not a 32-bit number"));
        };
        let mode = header
            .mode()
            .map_err(|_| Failure::Refused("its mode is not a number"))?;
        let seconds = header.mtime().ok().and_then(|s| i64::try_from(s).ok());
        let mut attributes = Self {
            uid,
            gid,
            mode: mode & 0o7777,
            mtime: (seconds.unwrap_or(0), 0),
            xattrs: Vec::new(),
        };
        for (key, value) in &entry.records {
            attributes.extend(key, value, entry.sparse.is_some())?;
        }
        Ok(attributes)
    }

    fn extend(&mut self, key: &str, value: &[u8], sparse: bool) -> Result<(), Failure> {
        if key == "mtime" {
            self.mtime = time(value).ok_or(Failure::Refused("its time is not a number"))?;
        } else if key.starts_with(sparse::RECORD) && !sparse {
            return Err(Failure::Refused(
                "it is a sparse file in another format than GNU's 1.0",
            ));
        } else if let Some(name) = key.strip_prefix(XATTR) {
            if name.starts_with(OVERLAY) {
                return Err(Failure::Refused(
                    "it has an attribute that is reserved for overlayfs",
                ));
            }
            let name = CString::new(name)
                .map_err(|_| Failure::Refused("the name of an attribute contains a NUL"))?;
            self.xattrs.push((name, value.to_vec()));
        }
        Ok(())
    }

    /// The attributes of an existing file.
    pub(in crate::engine) fn read(inode: &Inode) -> Result<Self, Failure> {
        let (stat, path) = (inode.stat(), inode.path());
        let mut names = vec![0; 64 << 10]; // XATTR_LIST_MAX, xattr(7)
        let size = match listxattr(&path, &mut names[..]) {
            Err(Errno::NOTSUP) => 0,
            other => other.map_err(|e| Failure::io("list the attributes of", e))?,
        };
        let mut xattrs = Vec::new();
        let mut total = 0;
        let mut value = Vec::new();
        for name in names[..size].split(|byte| *byte == 0) {
            if name.is_empty() || name.starts_with(OVERLAY.as_bytes()) {
                continue;
            }
            let Ok(name) = CString::new(name) else {
                continue;
            };
            value.resize(64 << 10, 0); // XATTR_SIZE_MAX, xattr(7)
            let size = match getxattr(&path, &name, &mut value[..]) {
                // The attribute was removed after its name was read.
                Err(Errno::NODATA) => continue,
                read => read.map_err(|e| Failure::io("read an attribute of", e))?,
            };
            total += name.count_bytes() + size;
            if total > MAX_XATTRS {
                return Err(Failure::Refused(
                    "it has more than 512 KiB of extended attributes",
                ));
            }
            xattrs.push((name, value[..size].to_vec()));
        }
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            xattrs,
        })
    }

    /// These attributes with another owner.
    pub(super) fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// These attributes without set-id bits and without the kernel's own attributes.
    pub(super) fn harmless(mut self) -> Self {
        self.mode &= !SET_ID;
        self.xattrs.retain(|(name, _)| {
            let name = name.to_bytes();
            !KERNELS.iter().any(|kernels| name.starts_with(kernels))
        });
        self
    }

    /// Sets the mode of a directory that has no entry in the archive.
    pub(super) fn set_mode(inode: &Inode, mode: u32) -> Result<(), Failure> {
        chmod(inode.path(), Mode::from_raw_mode(mode))
            .map_err(|e| Failure::io("set the mode of", e))
    }

    /// The extended attributes.
    pub(in crate::engine) fn xattrs(&self) -> impl Iterator<Item = (&CString, &[u8])> {
        self.xattrs.iter().map(|(name, value)| (name, &**value))
    }

    /// The time of the last change.
    pub(in crate::engine) fn mtime(&self) -> (i64, i64) {
        self.mtime
    }

    /// Sets them on a file. The mode and file capabilities come after the owner, whose change
    /// clears set-id bits and capabilities.
    pub(in crate::engine) fn apply(&self, inode: &Inode) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        chownat(inode.fd(), "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(|e| Failure::io("give its owner to", e))?;
        // A symbolic link has no mode.
        if !inode.kind().is_symlink() {
            Self::set_mode(inode, self.mode)?;
        }
        let path = inode.path();
        for (name, value) in &self.xattrs {
            match setxattr(&path, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => log::warn!("No attribute {name:?} can be set here"),
                Err(e) => return Err(Failure::io("set an attribute of", e)),
            }
        }
        set_time(inode, self.mtime)
    }
}

/// Sets the time of a file's last change.
pub(super) fn set_time(inode: &Inode, (seconds, nanos): (i64, i64)) -> Result<(), Failure> {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos as _,
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    utimensat(CWD, inode.path(), &times, AtFlags::empty())
        .map_err(|e| Failure::io("set the time of", e))
}

/// A record of a pax header for a time that does not fit a plain header.
pub(in crate::engine) fn time_record((seconds, nanos): (i64, i64)) -> Option<(String, Vec<u8>)> {
    let text = match (seconds, nanos) {
        (0.., 0) => return None,
        (0.., nanos) => format!("{seconds}.{nanos:09}"),
        (seconds, 0) => seconds.to_string(),
        (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    };
    Some(("mtime".to_owned(), text.into_bytes()))
}

/// Parses seconds with a fraction, as in pax headers (pax(1), "mtime").
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
    // Before 1970 the fraction makes the time earlier.
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
        for kept in [(12, 500_000_000), (-1, 0), (-1, 1), (-2, 999_999_999)] {
            let (_, text) = time_record(kept).unwrap();
            assert_eq!(time(&text), Some(kept));
        }
    }
}
