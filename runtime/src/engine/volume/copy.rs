//! Copying a tree unchanged: owners, modes, times, extended attributes, links and devices.
//! Other containers may change it meanwhile, so links are not followed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::engine::archive::{Inode, Ownership, Packer, Side, TransferError, transfer};
use crate::engine::image::Attributes;
use crate::error::{Context, Error, Result};

/// Copies the contents of the directory `from`, named `shown` in errors, into the empty
/// directory `to`, which gets the attributes of `from`.
pub(super) fn copy(from: &OwnedFd, shown: &Path, to: &Path) -> Result<()> {
    let into = File::open(to).on("open", to)?;
    let pack = |writer| {
        let mut packer = Packer::new(writer);
        let name = Path::new(".");
        packer.tree(from.as_fd(), OsStr::new("."), name)?;
        packer.finish()
    };
    let copied = transfer(pack, into.into(), Ownership::Archived, Side::Container);
    copied.map(drop).map_err(|broken| {
        let (action, path, source) = match broken {
            TransferError::Source(source) => ("copy", shown, source),
            TransferError::Target(source) => ("copy to", to, source),
        };
        Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    })
}

/// Gives the directory `to` the attributes of `from`.
pub(super) fn attributes(from: &Path, to: &Path) -> Result<()> {
    let inode = |path: &Path| {
        let file = File::open(path).on("open", path)?;
        Inode::of(file.into()).on("look at", path)
    };
    let read = Attributes::read(&inode(from)?).map_err(|failure| failure.on(from))?;
    let to_inode = inode(to)?;
    read.apply(&to_inode).map_err(|failure| failure.on(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    fn copy_of(from: &Path, to: &Path) -> Result<()> {
        copy(&File::open(from).unwrap().into(), from, to)
    }

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

        copy_of(&from, &to).unwrap();

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
    /// Another container with the same root file system changes names meanwhile.
    #[test]
    fn what_is_swapped_for_a_link_does_not_lead_to_the_hosts_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("root/data/sub")).unwrap();
        fs::create_dir(at("host")).unwrap();
        for name in ["root/data/sub/key", "root/data/file"] {
            fs::write(at(name), "own").unwrap();
        }
        for name in ["host/key", "key"] {
            fs::write(at(name), "secret").unwrap();
        }
        symlink(at("host"), at("root/link")).unwrap();
        symlink(at("key"), at("root/file")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (a, b) in [("data/sub", "link"), ("data/file", "file")] {
                        let (a, b) = (at("root").join(a), at("root").join(b));
                        renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                    }
                }
            });
            for turn in 0..300 {
                let to = at(&format!("copy{turn}"));
                fs::create_dir(&to).unwrap();
                // The copy may also fail, if a file that it read is gone.
                let _ = copy_of(&at("root/data"), &to);
                let sub = fs::symlink_metadata(to.join("sub"));
                let sub = sub.is_ok_and(|sub| sub.is_dir());
                let file = fs::symlink_metadata(to.join("file"));
                let file = file.is_ok_and(|file| file.is_file());
                for (there, name) in [(sub, "sub/key"), (file, "file")] {
                    let text = fs::read(to.join(name)).unwrap_or_default();
                    if there && text == b"secret" {
                        done.store(true, Ordering::Relaxed);
                        panic!("the host's file was copied as {name} in turn {turn}");
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
