//! Read-only files for the VMM, which it cannot reopen for writing.
//!
//! A process can reopen a descriptor for writing, by its link in `/proc/self/fd`, if the file's
//! permissions allow it. They do, since the VMM has the ids of the host's root. A link leads to
//! the file *by the mount* by which it was opened. So each file is opened by a separate mount
//! that nothing else uses. This mount is then made read-only, and without devices, since a
//! device can be written to even on a read-only mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

// mount_setattr(2)
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Opens a file or block device for reading; the receiver of the descriptor cannot get more
/// access. Needs `CAP_SYS_ADMIN` and `/proc`.
///
/// # Errors
/// The system's error.
pub fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, how)?;
    let file = File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))?;
    let attr = libc::mount_attr {
        attr_set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the empty string and `attr` outlive the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    use test_support::{require, root};

    /// Reopens a file by its descriptor; returns the error number.
    fn again(file: &OwnedFd, write: bool, flags: i32) -> Option<i32> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(link);
        opened.err().and_then(|err| err.raw_os_error())
    }

    #[test]
    fn a_file_is_not_opened_anew_to_write() {
        require!(root());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "content").unwrap();
        let plain: OwnedFd = File::open(file.path()).unwrap().into();
        // Without such a mount, root can reopen the file for writing.
        assert_eq!(again(&plain, true, 0), None);

        let fixed = open_read_only(file.path()).unwrap();

        assert_eq!(again(&fixed, true, 0), Some(libc::EROFS));
        assert_eq!(again(&fixed, false, libc::O_TRUNC), Some(libc::EROFS));
        let mut content = String::new();
        File::from(fixed).read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        assert!(std::fs::write(file.path(), "more").is_ok(), "others write");
    }

    #[test]
    fn a_device_is_not_opened_anew_at_all() {
        require!(root());
        // A mount without devices treats character and block devices alike.
        let device = Path::new("/dev/null");
        let fixed = open_read_only(device).unwrap();

        assert_eq!(again(&fixed, true, 0), Some(libc::EACCES));
        assert_eq!(again(&fixed, false, 0), Some(libc::EACCES));
        assert!(File::open(device).is_ok(), "others open it");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        require!(root());
        let err = open_read_only(Path::new("/no/such")).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
    }
}
