//! What the guest holds of a share: the inodes that it knows and the files it has open.
//!
//! All of it is taken back when the guest resets the device or unmounts. The
//! passthrough could do that itself, but then opens the shared directory anew, by its
//! path, and in the jail no path leads there. So what it gave out is noted here, and
//! returned to it piece by piece.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuse_backend_rs::api::filesystem::ROOT_ID;

use super::share::Handle;

/// See the module. Inodes are the passthrough's numbers.
pub(super) struct Held {
    /// Open files and directories with their inodes.
    handles: Mutex<BTreeMap<Handle, u64>>,
    /// The passthrough counts its inodes up; this is the last that the guest was told.
    last_inode: AtomicU64,
}

impl Held {
    pub fn new() -> Held {
        Held {
            handles: Mutex::default(),
            last_inode: AtomicU64::new(ROOT_ID),
        }
    }

    /// The guest is told of this inode.
    pub fn knows(&self, inode: u64) {
        self.last_inode.fetch_max(inode, Ordering::Relaxed);
    }

    /// The guest opened this inode.
    pub fn opened(&self, handle: Option<Handle>, inode: u64) {
        if let Some(handle) = handle {
            self.handles().insert(handle, inode);
        }
    }

    /// The guest closed the handle.
    pub fn closed(&self, handle: Handle) {
        self.handles().remove(&handle);
    }

    /// Everything that is open, which is forgotten here.
    pub fn take_handles(&self) -> BTreeMap<Handle, u64> {
        std::mem::take(&mut self.handles())
    }

    /// Inodes that the guest may know beside the root.
    pub fn inodes(&self) -> RangeInclusive<u64> {
        ROOT_ID + 1..=self.last_inode.load(Ordering::Relaxed)
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<Handle, u64>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
