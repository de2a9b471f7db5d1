//! Copying a tree as it is: owners, modes, times, extended attributes, links and
//! devices. No link is followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, linkat, mknodat};

use crate::engine::image::Attributes;
use crate::error::{Context, Error, Result};

/// As deep as directories may be in each other.
const MAX_DEPTH: usize = 512;

/// Copies what is in the directory `from` into the empty directory `to`, which
/// gets the attributes of `from`.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    Copy::default().directory(from, to, 0)
}

#[derive(Default)]
struct Copy {
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::Invalid(format!(
                "{} is deeper than {MAX_DEPTH} directories",
                from.display()
            )));
        }
        for entry in fs::read_dir(from).on("read", from)? {
            let entry = entry.on("read", from)?;
            self.entry(&entry.path(), &to.join(entry.file_name()), depth)?;
        }
        // Last: what is put into it changes its time.
        attributes(from, to)
    }

    fn entry(&mut self, from: &Path, to: &Path, depth: usize) -> Result<()> {
        let data = fs::symlink_metadata(from).on("look at", from)?;
        let kind = data.file_type();
        if kind.is_dir() {
            fs::create_dir(to).on("create", to)?;
            return self.directory(from, to, depth + 1);
        }
        if data.nlink() > 1 {
            let key = (data.dev(), data.ino());
            if let Some(first) = self.links.get(&key) {
                return linkat(CWD, first, CWD, to, rustix::fs::AtFlags::empty()).on("link", to);
            }
            self.links.insert(key, to.to_owned());
        }
        if kind.is_symlink() {
            let target = fs::read_link(from).on("read", from)?;
            std::os::unix::fs::symlink(target, to).on("link", to)?;
        } else if kind.is_file() {
            file(from, to).on("copy", from)?;
        } else {
            let (kind, device) = if kind.is_char_device() {
                (FileType::CharacterDevice, data.rdev())
            } else if kind.is_block_device() {
                (FileType::BlockDevice, data.rdev())
            } else if kind.is_fifo() {
                (FileType::Fifo, 0)
            } else {
                // A socket is of the process that listens.
                return Ok(());
            };
            mknodat(CWD, to, kind, Mode::RUSR | Mode::WUSR, device).on("create", to)?;
        }
        attributes(from, to)
    }
}

fn file(from: &Path, to: &Path) -> io::Result<()> {
    let mut how = fs::OpenOptions::new();
    let mut from = how.read(true).custom_flags(libc::O_NOFOLLOW).open(from)?;
    io::copy(&mut from, &mut File::create_new(to)?).map(drop)
}

/// Gives `to` the attributes of `from`.
pub(super) fn attributes(from: &Path, to: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(Error::Internal(format!("{} has no parent", to.display())));
    };
    let dir = File::open(parent).on("open", parent)?;
    let apply = |name: &OsStr| Attributes::read(from)?.apply(dir.as_fd(), name);
    apply(name).map_err(|failure| failure.on(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn a_copy_is_as_what_was_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/a"), "content").unwrap();
        fs::hard_link(from.join("sub/a"), from.join("b")).unwrap();
        symlink("/etc/passwd", from.join("l")).unwrap();
        chown(from.join("b"), Some(7), Some(8)).unwrap();
        fs::set_permissions(from.join("b"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();

        copy(&from, &to).unwrap();

        let data = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(fs::read(to.join("sub/a")).unwrap(), b"content");
        assert_eq!(data("b").ino(), data("sub/a").ino());
        assert_eq!(
            (data("b").uid(), data("b").gid(), data("b").mode() & 0o7777),
            (7, 8, 0o4750)
        );
        assert!(data("l").is_symlink());
        assert_eq!(data("").mode() & 0o7777, 0o1777);
        assert_eq!(data("").mtime(), fs::metadata(&from).unwrap().mtime());
    }
}
