//! A file of a tree that others change meanwhile. Its name is followed once; from
//! then on it is touched by its descriptor alone, so a link that is put in its
//! place leads nowhere.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;

/// A file, directory, link or node, whatever its name leads to by now.
pub(in crate::engine) struct Inode {
    /// Opened with `O_PATH`: nothing happens to a device or a FIFO.
    fd: OwnedFd,
    stat: Stat,
}

impl Inode {
    /// What is at `name` in the directory `dir`: a link itself.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self, Errno> {
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(openat(dir, name, how, Mode::empty())?)
    }

    /// What is open.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// As it was when it was opened.
    pub(in crate::engine) fn stat(&self) -> &Stat {
        &self.stat
    }

    pub(in crate::engine) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(in crate::engine) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// A path that leads to it and no further, not even from a link (proc(5),
    /// `/proc/pid/fd`). For calls that take no such descriptor.
    pub(in crate::engine) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// What a link says.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn link(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Opens a file or a directory to read it, nothing else.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for what is neither.
    pub(in crate::engine) fn read(&self) -> Result<OwnedFd, Errno> {
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        match self.kind() {
            FileType::Directory => openat(&self.fd, ".", how | OFlags::DIRECTORY, Mode::empty()),
            FileType::RegularFile => openat(CWD, self.path(), how, Mode::empty()),
            _ => Err(Errno::INVAL),
        }
    }
}
