//! The host's files: opened one path component at a time, identified, and changed by
//! descriptor.
//!
//! An `O_PATH` descriptor holds each file that the guest knows. It allows queries, but no reads
//! and writes. For these the file is reopened by its link in `/proc/self/fd`, a directory that
//! is held open from the start, since the jail has no paths to files.

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fuse_backend_rs::abi::fuse_abi::stat64;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};

/// The attributes of a file.
#[derive(Clone, Copy)]
pub(super) struct FileStat {
    /// Its attributes.
    pub stat: stat64,
    /// The mount through which it was reached.
    pub mount: u64,
}

impl FileStat {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// statx(2), since Linux 6.8: a number that is never reused. Older kernels ignore the flag.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// Reads the attributes of an open file.
pub(super) fn stat(file: impl AsFd) -> io::Result<FileStat> {
    let wanted = StatxFlags::BASIC_STATS
        | StatxFlags::MNT_ID
        | StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let at = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(file, c"", at, wanted)?;
    Ok(FileStat {
        mount: found.stx_mnt_id,
        stat: stat_of(&found),
    })
}

fn stat_of(found: &Statx) -> stat64 {
    // SAFETY: plain numbers; zero is valid.
    let mut stat: stat64 = unsafe { std::mem::zeroed() };
    stat.st_dev = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    stat.st_ino = found.stx_ino;
    stat.st_mode = found.stx_mode.into();
    stat.st_nlink = found.stx_nlink.into();
    stat.st_uid = found.stx_uid;
    stat.st_gid = found.stx_gid;
    stat.st_rdev = libc::makedev(found.stx_rdev_major, found.stx_rdev_minor);
    stat.st_size = found.stx_size.cast_signed();
    stat.st_blksize = found.stx_blksize.into();
    stat.st_blocks = found.stx_blocks.cast_signed();
    stat.st_atime = found.stx_atime.tv_sec;
    stat.st_atime_nsec = found.stx_atime.tv_nsec.into();
    stat.st_mtime = found.stx_mtime.tv_sec;
    stat.st_mtime_nsec = found.stx_mtime.tv_nsec.into();
    stat.st_ctime = found.stx_ctime.tv_sec;
    stat.st_ctime_nsec = found.stx_ctime.tv_nsec.into();
    stat
}

/// Opens the file with this name in a directory as `O_PATH`, without following a link.
pub(super) fn hold(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// `/proc/self/fd`.
pub(super) struct Links(OwnedFd);

impl Links {
    pub fn open() -> io::Result<Links> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, c"/proc/self/fd", flags, Mode::empty())?;
        Ok(Links(dir))
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The name of a descriptor in it.
    pub fn name(file: impl AsFd) -> String {
        file.as_fd().as_raw_fd().to_string()
    }

    /// Opens a held file or directory. Other kinds of files are never opened: a FIFO would
    /// block the thread, and a device belongs to the host.
    pub fn reopen(&self, file: impl AsFd, kind: FileType, flags: u32) -> io::Result<OwnedFd> {
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
        // The link itself must be followed, to the existing file.
        let flags = flags - OFlags::NOFOLLOW - OFlags::CREATE - OFlags::EXCL;
        Ok(openat(&self.0, Links::name(file), flags, Mode::empty())?)
    }
}

/// While this lives, the calling thread acts as a user of the guest.
pub(super) struct As {
    user: bool,
    group: bool,
    /// It belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

impl As {
    /// New files belong to this user and group.
    pub fn user(uid: u32, gid: u32) -> io::Result<As> {
        let mut acting = As {
            user: false,
            group: false,
            _not_send: PhantomData,
        };
        // The group first: the new user may not be allowed to change it.
        if gid != 0 {
            effective(libc::SYS_setresgid, gid)?;
            acting.group = true;
        }
        if uid != 0 {
            effective(libc::SYS_setresuid, uid)?;
            acting.user = true;
        }
        Ok(acting)
    }
}

impl Drop for As {
    fn drop(&mut self) {
        let back = |is_set: bool, call| !is_set || effective(call, 0).is_ok();
        let user = back(self.user, libc::SYS_setresuid);
        if !(back(self.group, libc::SYS_setresgid) && user) {
            // Otherwise later files of the thread would have a wrong owner.
            log::error!("cannot become root again");
            std::process::abort();
        }
    }
}

/// Changes the effective id of the calling thread only: the C library's functions change those
/// of all threads.
fn effective(call: libc::c_long, id: u32) -> io::Result<()> {
    const UNCHANGED: libc::c_long = -1;
    // SAFETY: takes numbers only.
    match unsafe { libc::syscall(call, UNCHANGED, libc::c_long::from(id), UNCHANGED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `change` on an open file, and then sets the set-id bits as a local file system would.
/// `kill` means that the writer may not keep them (fuse.h, `FUSE_WRITE_KILL_SUIDGID`). The host
/// would decide by the capabilities of this process, which do not count in the jail's user
/// namespace.
pub(super) fn keeping_set_id<T>(
    file: impl AsFd,
    kill: bool,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let file = file.as_fd();
    let mode = |seen: &FileStat| seen.stat.st_mode;
    let before = mode(&stat(file)?);
    if before & (libc::S_ISUID | libc::S_ISGID) == 0 || FileType::from_raw_mode(before).is_dir() {
        return change();
    }
    let result = change()?;
    let wanted = if kill { without_set_id(before) } else { before };
    if mode(&stat(file)?) != wanted {
        rustix::fs::fchmod(file, Mode::from_raw_mode(wanted & 0o7777))?;
    }
    Ok(result)
}

/// A mode after a write by another user. A set-group-id bit without group execution has another
/// meaning (inode(7)), and stays.
fn without_set_id(mode: u32) -> u32 {
    if mode & libc::S_IXGRP != 0 {
        mode & !(libc::S_ISUID | libc::S_ISGID)
    } else {
        mode & !libc::S_ISUID
    }
}
