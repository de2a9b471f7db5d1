//! The files and directories that the guest has open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync::lock;
use rustix::fs::{OFlags, fcntl_setfl};

pub(super) type Handle = u64;

/// An open file or directory.
pub(super) struct Open {
    pub file: File,
    inode: u64,
    flags: AtomicU32,
    /// Guards its position, which listings and seeks use.
    position: Mutex<()>,
}

impl Open {
    /// Sets the flags of a request on the file: those of the guest's own open file, after a
    /// change by fcntl(2) in the guest.
    pub fn set_flags(&self, flags: u32) -> io::Result<()> {
        if self.flags.load(Ordering::Relaxed) != flags {
            fcntl_setfl(&self.file, OFlags::from_bits_retain(flags))?;
            self.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    pub fn lock_position(&self) -> MutexGuard<'_, ()> {
        lock(&self.position)
    }
}

/// See the module.
pub(super) struct Handles {
    max: usize,
    inner: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    last: Handle,
    open: HashMap<Handle, Arc<Open>>,
}

impl Handles {
    /// An empty table for at most `max` open files.
    pub fn new(max: usize) -> Handles {
        Handles {
            max,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, OpenFiles> {
        lock(&self.inner)
    }

    /// `ENFILE` if no more files may be open.
    pub fn make_room(&self) -> io::Result<()> {
        if self.inner().open.len() >= self.max {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }

    /// Records that the guest has opened this file of this inode.
    pub fn insert(&self, inode: u64, file: OwnedFd, flags: u32) -> Handle {
        let open = Arc::new(Open {
            file: file.into(),
            inode,
            flags: AtomicU32::new(flags),
            position: Mutex::default(),
        });
        let mut inner = self.inner();
        inner.last += 1;
        let handle = inner.last;
        inner.open.insert(handle, open);
        handle
    }

    /// The open file of this handle; `EBADF` if it is not of this inode.
    pub fn get(&self, inode: u64, handle: Handle) -> io::Result<Arc<Open>> {
        let inner = self.inner();
        let open = inner.open.get(&handle).filter(|open| open.inode == inode);
        open.cloned().ok_or_else(bad)
    }

    /// Closes a handle for the guest.
    pub fn remove(&self, inode: u64, handle: Handle) -> io::Result<()> {
        self.get(inode, handle)?;
        let closed = self.inner().open.remove(&handle);
        // Without the lock: the close may wait for a network file system.
        closed.map(drop).ok_or_else(bad)
    }

    /// Closes all handles.
    pub fn remove_all(&self) {
        let closed = std::mem::take(&mut self.inner().open);
        drop(closed);
    }
}

fn bad() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}
