//! The two flocks of a pod directory.
//!
//! - `lock`: exclusive while state files change. Held for the file work only,
//!   never across a call to the VM or the agent. Readers of several
//!   related files may share it; [`read_consistent`] takes no lock.
//! - `owner`: exclusive for the life of the process that owns the pod. A free
//!   lock means that the owner is dead: the kernel releases it.

#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs2::FileExt;
use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::error::{Context, Error, Result};
use crate::state_dir::dir::Dir;

/// The name of the shared/exclusive lock.
const LOCK: &str = "lock";

/// The name of the owner's lock.
const OWNER: &str = "owner";

/// A pod's directory, guarded by two flocks.
pub trait Guarded {
    /// The pod's id, for messages.
    fn pod(&self) -> &str;
    /// The directory.
    fn dir(&self) -> PathBuf;

    /// The file of the shared/exclusive lock.
    fn lock(&self) -> PathBuf {
        self.dir().join(LOCK)
    }

    /// The file of the owner's lock.
    fn owner(&self) -> PathBuf {
        self.dir().join(OWNER)
    }
}

/// The `lock` file, locked; released on drop.
#[derive(Debug)]
pub struct PodLock {
    _file: File,
}

impl PodLock {
    /// Locks the pod for reading its files. Waits for a writer.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the pod does not exist (any more).
    pub fn shared(dir: &impl Guarded) -> Result<Self> {
        Self::take(dir, FileExt::lock_shared)
    }

    /// Locks the pod for changing its files. Waits for readers and writers.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the pod does not exist (any more).
    pub fn exclusive(dir: &impl Guarded) -> Result<Self> {
        Self::take(dir, FileExt::lock_exclusive)
    }

    /// As [`PodLock::exclusive`]; `None` instead of waiting.
    ///
    /// # Errors
    /// As [`PodLock::exclusive`].
    pub(crate) fn try_exclusive(dir: &impl Guarded) -> Result<Option<Self>> {
        match Self::take(dir, FileExt::try_lock_exclusive) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn take(dir: &impl Guarded, lock: impl Fn(&File) -> std::io::Result<()>) -> Result<Self> {
        blocking(|| Self::take_at_once(dir, lock))
    }

    fn take_at_once(
        dir: &impl Guarded,
        lock: impl Fn(&File) -> std::io::Result<()>,
    ) -> Result<Self> {
        let path = dir.lock();
        let file = open(&path, false).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found("pod", dir.pod()),
            _ => io_error("open", &path, e),
        })?;
        lock(&file).on("lock", &path)?;
        // The pod may have been removed during the wait: a lock on an unlinked file guards
        // nothing.
        if !is_still(&file, &path)? {
            return Err(Error::not_found("pod", dir.pod()));
        }
        Ok(Self { _file: file })
    }
}

/// The process that owns a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerProcess {
    /// The owner's pid.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: with the pid, it names one process for
    /// as long as the host is up.
    pub start_time: u64,
    /// The address on which the owner serves the task API; empty if it does not.
    pub address: String,
}

/// The `owner` lock, held.
#[derive(Debug)]
pub struct OwnerLock {
    _file: File,
}

impl OwnerLock {
    /// Becomes the owner of a new pod directory, under the pod's lock, so that no reader looks
    /// for an owner at the same time.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if another process owns it.
    pub fn take(dir: &impl Guarded, owner: &OwnerProcess) -> Result<Self> {
        let lock = PodLock::exclusive(dir)?;
        Self::take_locked(dir, owner, &lock)
    }

    /// As [`OwnerLock::take`], for a caller that holds the pod's lock exclusively.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if another process owns it.
    pub fn take_locked(dir: &impl Guarded, owner: &OwnerProcess, _held: &PodLock) -> Result<Self> {
        if Self::holder_unlocked(dir)?.is_some() {
            return Err(Error::AlreadyExists {
                what: "pod",
                id: dir.pod().to_owned(),
            });
        }
        let path = dir.owner();
        let mut file = open(&path, true).on("open", &path)?;
        // The pod's lock excludes other owners-to-be; readers hold this lock only briefly.
        FileExt::lock_exclusive(&file).on("lock", &path)?;
        let text = serde_json::to_vec(owner).map_err(Error::encode("the owner of a pod"))?;
        file.set_len(0).on("write", &path)?;
        file.rewind().on("write", &path)?;
        file.write_all(&text).on("write", &path)?;
        file.sync_all().on("sync", &path)?;
        Ok(Self { _file: file })
    }

    /// The living owner, if any.
    ///
    /// # Errors
    /// [`Error::Io`] if the file exists and cannot be opened.
    pub fn holder(dir: &impl Guarded) -> Result<Option<OwnerProcess>> {
        let _lock = match PodLock::shared(dir) {
            Ok(lock) => Some(lock),
            Err(Error::NotFound { .. }) => None,
            Err(e) => return Err(e),
        };
        Self::holder_unlocked(dir)
    }

    /// As [`OwnerLock::holder`], for a caller that holds the pod's lock.
    pub(crate) fn holder_unlocked(dir: &impl Guarded) -> Result<Option<OwnerProcess>> {
        let path = dir.owner();
        match open(&path, false) {
            Ok(file) => Self::holder_of(file, &path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("open", &path, e)),
        }
    }

    fn holder_of(mut file: File, path: &Path) -> Result<Option<OwnerProcess>> {
        match FileExt::try_lock_shared(&file) {
            Ok(()) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let mut text = String::new();
                file.read_to_string(&mut text).on("read", path)?;
                // The owner locks before it writes: with an incomplete line it is just
                // starting.
                Ok(Some(serde_json::from_str(&text).unwrap_or(OwnerProcess {
                    pid: 0,
                    start_time: 0,
                    address: String::new(),
                })))
            }
            Err(e) => Err(io_error("lock", path, e)),
        }
    }
}

/// A fingerprint of a pod's owner: while it does not change, the owner is the same.
#[derive(PartialEq)]
struct OwnerVersion {
    claimed: Option<(u64, i64, u64)>,
    owner: Option<OwnerProcess>,
}

impl OwnerVersion {
    fn read(dir: &impl Guarded, held: &Dir) -> Result<Self> {
        let claimed = held.stat(OWNER)?;
        // A pod that was never started has no owner file.
        let owner = claimed.and_then(|_| held.open_file(OWNER, OPEN).transpose());
        let owner = owner.map(|file| OwnerLock::holder_of(file?, &dir.owner()));
        Ok(Self {
            claimed: claimed.map(|file| (file.st_ino, file.st_mtime, file.st_mtime_nsec)),
            owner: owner.transpose()?.flatten(),
        })
    }
}

/// Reads a pod's files without waiting: each is replaced atomically. `read` gets the owner, and
/// is repeated if the owner has changed meanwhile. So a process that is stopped during a read
/// or a write does not block others.
///
/// # Errors
/// [`Error::NotFound`] if the pod does not exist; those of `read`.
pub(crate) fn read_consistent<T>(
    dir: &impl Guarded,
    held: &Dir,
    mut read: impl FnMut(&Dir, Option<OwnerProcess>) -> Result<T>,
) -> Result<T> {
    const ATTEMPTS: usize = 16;
    let mut before = OwnerVersion::read(dir, held)?;
    for _ in 0..ATTEMPTS {
        let found = read(held, before.owner.clone());
        is_whole(dir, held)?;
        let after = OwnerVersion::read(dir, held)?;
        if after == before {
            return found;
        }
        before = after;
    }
    // The owner changes again and again: this one time wait for the lock.
    let _lock = PodLock::shared(dir)?;
    read(&hold(dir)?, OwnerLock::holder_unlocked(dir)?)
}

/// Checks that no file of the pod was removed: the removal begins with the lock.
fn is_whole(dir: &impl Guarded, held: &Dir) -> Result<()> {
    match held.stat(LOCK)? {
        None => Err(Error::not_found("pod", dir.pod())),
        Some(lock) if !FileType::from_raw_mode(lock.st_mode).is_file() => {
            Err(Error::bad_file(dir.lock(), "not a regular file"))
        }
        Some(_) => Ok(()),
    }
}

/// Opens a pod's directory, for [`read_consistent`].
///
/// # Errors
/// [`Error::NotFound`] if the pod does not exist.
pub(crate) fn hold(dir: &impl Guarded) -> Result<Dir> {
    held(dir, Dir::open(dir.dir()))
}

/// As [`hold`], for the directory of this name in `parent`.
///
/// # Errors
/// As [`hold`].
pub(crate) fn hold_in(parent: &Dir, name: &str, dir: &impl Guarded) -> Result<Dir> {
    held(dir, parent.dir(name))
}

fn held(dir: &impl Guarded, opened: Result<Dir>) -> Result<Dir> {
    opened.map_err(|e| match e {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::not_found("pod", dir.pod())
        }
        other => other,
    })
}

/// The process that holds a pod's lock, if it is stopped (SIGSTOP, a debugger): then all others
/// wait until it continues.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn stopped_holder(dir: &impl Guarded) -> Result<Option<u32>> {
    const LOCKS: &str = "/proc/locks";
    let path = dir.lock();
    let Some(data) = look(&path)? else {
        return Ok(None);
    };
    // proc(5): `1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF`; `->` marks a waiting process.
    let inode = format!(":{}", data.ino());
    let table = fs::read_to_string(LOCKS).on("read", LOCKS)?;
    let mut holders = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1) == Some(&"FLOCK") && words.get(5)?.ends_with(&inode);
        ours.then(|| words[4].parse::<u32>().ok())?
    });
    Ok(holders.find(|pid| is_stopped(*pid)))
}

/// proc(5): field 3 of `stat`, after the name in brackets.
fn is_stopped(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(") ").map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.starts_with(['T', 't']))
}

/// Waits until a pod has no owner.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn wait_for_owner(dir: &impl Guarded) -> Result<()> {
    let path = dir.owner();
    match open(&path, false) {
        Ok(file) => FileExt::lock_shared(&file).on("lock", &path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).on("open", &path),
    }
}

fn open(path: &Path, create: bool) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// As [`open`] for an existing file.
const OPEN: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW);

/// Removes an entry in the place of a lock that is not a regular file: it cannot be locked.
pub(crate) fn clear(dir: &impl Guarded) -> Result<()> {
    for path in [dir.lock(), dir.owner()] {
        match look(&path)? {
            Some(data) if data.is_dir() => fs::remove_dir_all(&path).on("remove", &path)?,
            Some(data) if !data.is_file() => fs::remove_file(&path).on("remove", &path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Creates the `lock` file of a pod directory, unless it exists.
pub(crate) fn create(dir: &impl Guarded) -> Result<()> {
    open(&dir.lock(), true).on("create", dir.lock()).map(drop)
}

fn is_still(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().on("look at", path)?;
    let there = look(path)?;
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())))
}

/// What is at `path`, a link itself; `None` if nothing is.
fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        data => data.on("look at", path).map(Some),
    }
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action,
        path: PathBuf::from(path),
        source,
    }
}
