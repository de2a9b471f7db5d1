//! SETATTR: changes of a file's mode, owner, size and times.

use std::io;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::SetattrValid as Valid;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat,
    chownat, fchmod, ftruncate, futimens, utimensat,
};

use super::host::{Links, keeping_set_id};

/// Changes a file that the guest has open.
pub(super) fn open_file(file: impl AsFd, to: &stat64, valid: Valid) -> io::Result<()> {
    let file = file.as_fd();
    if valid.contains(Valid::MODE) {
        fchmod(file, mode(to))?;
    }
    owner(file, to, valid)?;
    if valid.contains(Valid::SIZE) {
        truncate(file, to, valid)?;
    }
    if let Some(times) = times(to, valid) {
        futimens(file, &times)?;
    }
    Ok(())
}

/// Changes a held file.
pub(super) fn held_file(
    links: &Links,
    file: impl AsFd,
    kind: FileType,
    to: &stat64,
    valid: Valid,
) -> io::Result<()> {
    let file = file.as_fd();
    let link = Links::name(file);
    if valid.contains(Valid::MODE) {
        chmodat(links.dir(), &link, mode(to), AtFlags::empty())?;
    }
    owner(file, to, valid)?;
    if valid.contains(Valid::SIZE) {
        let flags = (libc::O_RDWR | libc::O_NONBLOCK) as u32;
        truncate(links.reopen(file, kind, flags)?.as_fd(), to, valid)?;
    }
    if let Some(times) = times(to, valid) {
        utimensat(links.dir(), &link, &times, AtFlags::empty())?;
    }
    Ok(())
}

fn mode(to: &stat64) -> Mode {
    Mode::from_raw_mode(to.st_mode & 0o7777)
}

fn owner(file: impl AsFd, to: &stat64, valid: Valid) -> io::Result<()> {
    if !valid.intersects(Valid::UID | Valid::GID) {
        return Ok(());
    }
    // The highest number means "unchanged", for which the guest omits the field.
    let given = |bit, id: u32| {
        valid
            .contains(bit)
            .then_some(id)
            .filter(|id| *id != u32::MAX)
    };
    let uid = given(Valid::UID, to.st_uid).map(Uid::from_raw);
    let gid = given(Valid::GID, to.st_gid).map(Gid::from_raw);
    let at = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(file, c"", uid, gid, at)?)
}

fn truncate(file: impl AsFd, to: &stat64, valid: Valid) -> io::Result<()> {
    let file = file.as_fd();
    let size = u64::try_from(to.st_size).map_err(|_| io::ErrorKind::InvalidInput)?;
    keeping_set_id(file, valid.contains(Valid::KILL_SUIDGID), || {
        Ok(ftruncate(file, size)?)
    })
}

fn times(to: &stat64, valid: Valid) -> Option<Timestamps> {
    if !valid.intersects(Valid::ATIME | Valid::MTIME) {
        return None;
    }
    let time = |given, now, seconds, nanoseconds| match (valid.contains(given), valid.contains(now))
    {
        (_, true) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        (true, false) => Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
        (false, false) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    };
    Some(Timestamps {
        last_access: time(
            Valid::ATIME,
            Valid::ATIME_NOW,
            to.st_atime,
            to.st_atime_nsec,
        ),
        last_modification: time(
            Valid::MTIME,
            Valid::MTIME_NOW,
            to.st_mtime,
            to.st_mtime_nsec,
        ),
    })
}
