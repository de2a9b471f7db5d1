//! A file of a tree that others change at the same time. Its name is followed once; from then
//! on only its descriptor is used, so a link put in its place has no effect.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;

/// A file, directory, link or node, independent of what its name leads to by now.
pub(in crate::engine) struct Inode {
    /// Opened with `O_PATH`: opening has no effect on a device or a FIFO.
    fd: OwnedFd,
    stat: Stat,
}

impl Inode {
    /// Opens `name` in the directory `dir`; a link is not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self, Errno> {
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(openat(dir, name, how, Mode::empty())?)
    }

    /// Takes over an open descriptor.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// The attributes at the time of opening.
    pub(in crate::engine) fn stat(&self) -> &Stat {
        &self.stat
    }

    pub(in crate::engine) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(in crate::engine) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// A path to exactly this file, even if it is a link (proc(5), `/proc/pid/fd`). For calls
    /// that do not take an `O_PATH` descriptor.
    pub(in crate::engine) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// The target of a link.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn link(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Opens a file or a directory for reading.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for other kinds.
    pub(in crate::engine) fn read(&self) -> Result<OwnedFd, Errno> {
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        match self.kind() {
            FileType::Directory => openat(&self.fd, ".", how | OFlags::DIRECTORY, Mode::empty()),
            FileType::RegularFile => openat(CWD, self.path(), how, Mode::empty()),
            _ => Err(Errno::INVAL),
        }
    }
}
