//! The table of files that the guest knows, each with a number, with bounded cost for the host.
//!
//! The guest reports when it forgets a file; a hostile guest never does. So the number of files
//! is bounded, and so is the number of descriptors that hold them, since a process can have
//! only few: the descriptors of files without recent use are closed, and reopened by directory
//! and name when the guest uses the file again. A file that cannot be found again in this way,
//! such as an unlinked one, keeps its descriptor.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use fuse_backend_rs::api::filesystem::ROOT_ID;
use rustix::fs::FileType;

use super::host::{self, FileStat};
use super::place::{FileKey, Mount, Place};
use crate::sync::lock;

/// The limits of a guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most files.
    pub files: usize,
    /// The most descriptors of them.
    pub descriptors: usize,
}

/// The most files that are checked to find one whose descriptor can be closed.
const TRIES: usize = 32;

/// The most requests that may reserve space before the first of them uses it.
const SERVED_AT_ONCE: usize = 8;

/// The most parent directories in which an open one is searched.
const DEPTH: usize = 128;

/// The descriptor of a held file.
#[derive(Debug)]
pub(super) struct Held {
    /// `O_PATH`.
    pub file: OwnedFd,
    /// The mount through which it was reached.
    pub mount: Mount,
}

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub number: u64,
    pub key: FileKey,
    pub kind: FileType,
    pub place: Arc<Place>,
    /// It is the root of its place, or a mount point; its descriptor is never closed.
    pub crossed: bool,
    state: Mutex<InodeState>,
}

#[derive(Debug)]
struct InodeState {
    held: Option<Arc<Held>>,
    /// Its last known place: the number of a directory, and the name.
    parent: u64,
    name: CString,
    /// Whether it was used since its descriptor was last checked for closing.
    used: bool,
}

impl Inode {
    fn state(&self) -> MutexGuard<'_, InodeState> {
        lock(&self.state)
    }

    fn held(&self) -> Option<Arc<Held>> {
        let mut state = self.state();
        state.used = true;
        state.held.clone()
    }
}

/// A file found by a lookup.
pub(super) struct New<'a> {
    pub seen: &'a FileStat,
    pub place: Arc<Place>,
    pub crossed: bool,
    pub held: Held,
    pub parent: u64,
    pub name: &'a CStr,
}

/// See the module.
pub(super) struct Table {
    limits: Limits,
    inner: Mutex<KnownFiles>,
}

struct KnownFiles {
    last: u64,
    by_number: HashMap<u64, Slot>,
    by_key: HashMap<FileKey, u64>,
    /// The number of files with a descriptor.
    open: usize,
    /// The numbers of files that may have a descriptor, in the order in which they are checked
    /// for closing. Some are stale.
    queue: VecDeque<u64>,
}

struct Slot {
    inode: Arc<Inode>,
    /// FUSE's lookup count: the guest's lookups, less those that it has forgotten.
    count: u64,
}

impl Table {
    /// A table with the root only, which is never forgotten.
    pub fn new(limits: Limits, root: New<'_>) -> Table {
        let table = Table {
            limits,
            inner: Mutex::new(KnownFiles {
                last: ROOT_ID - 1,
                by_number: HashMap::new(),
                by_key: HashMap::new(),
                open: 0,
                queue: VecDeque::new(),
            }),
        };
        table.inner().insert(root);
        table
    }

    fn inner(&self) -> MutexGuard<'_, KnownFiles> {
        lock(&self.inner)
    }

    /// The file with this number.
    pub fn get(&self, number: u64) -> io::Result<Arc<Inode>> {
        let inner = self.inner();
        let slot = inner.by_number.get(&number);
        let unknown = || io::Error::from_raw_os_error(libc::EBADF);
        slot.map(|slot| Arc::clone(&slot.inode)).ok_or_else(unknown)
    }

    /// Counts a lookup of a file by the guest. `ENFILE` if it knows too many.
    pub fn add_lookup(&self, new: New<'_>) -> io::Result<Arc<Inode>> {
        let key = FileKey::new(new.seen, &new.place);
        let mut inner = self.inner();
        let known = inner.by_key.get(&key).copied();
        if let Some(slot) = known.and_then(|number| inner.by_number.get_mut(&number)) {
            // Another file, of another kind, has got this device number meanwhile.
            if slot.inode.kind == new.seen.kind() {
                slot.count = slot.count.saturating_add(1);
                let inode = Arc::clone(&slot.inode);
                let opened = inode.found_again(new);
                if opened {
                    inner.opened(inode.number);
                }
                return Ok(inode);
            }
        }
        let open = self.limits.descriptors + SERVED_AT_ONCE;
        if inner.by_number.len() >= self.limits.files || inner.open >= open {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(inner.insert(new))
    }

    /// Forgets `count` lookups of a file.
    pub fn forget(&self, number: u64, count: u64) {
        // Closed without the lock: the last close of an unlinked file frees all of its data,
        // which may take time.
        let forgotten = match number {
            ROOT_ID => None,
            _ => self.inner().forget(number, count),
        };
        drop(forgotten);
    }

    /// Forgets all files except the root.
    pub fn forget_all(&self) {
        let numbers: Vec<u64> = self.inner().by_number.keys().copied().collect();
        for number in numbers {
            self.forget(number, u64::MAX);
        }
    }

    /// Holds a file, and reopens it if necessary. `ESTALE` if it is no longer at its place.
    pub fn hold(&self, inode: &Arc<Inode>) -> io::Result<Arc<Held>> {
        let mut chain: Vec<Arc<Inode>> = Vec::new();
        let mut next = Arc::clone(inode);
        let mut above = loop {
            if let Some(held) = next.held() {
                break held;
            }
            if chain.len() >= DEPTH {
                return Err(stale());
            }
            let parent = next.state().parent;
            chain.push(next);
            next = self.get(parent).map_err(|_| stale())?;
        };
        while let Some(inode) = chain.pop() {
            let file = inode.look_up(&above)?;
            let mount = above.mount;
            let held = Arc::new(Held { file, mount });
            self.make_room()?;
            let mut inner = self.inner();
            let mut state = inode.state();
            above = match &state.held {
                Some(held) => Arc::clone(held),
                None => {
                    state.held = Some(Arc::clone(&held));
                    if inner.by_number.contains_key(&inode.number) {
                        inner.opened(inode.number);
                    }
                    held
                }
            };
        }
        Ok(above)
    }

    /// Makes room for one more descriptor, if possible. Must be called without a lock.
    pub fn make_room(&self) -> io::Result<()> {
        for _ in 0..TRIES {
            let (inode, parent) = {
                let mut inner = self.inner();
                if inner.open < self.limits.descriptors {
                    return Ok(());
                }
                let Some(inode) = inner.next_unused() else {
                    break;
                };
                let parent = inner.by_number.get(&inode.state().parent);
                let parent = parent.map(|slot| Arc::clone(&slot.inode));
                (inode, parent)
            };
            let can = parent.is_some_and(|parent| inode.is_evictable(&parent));
            self.evict_if(can, &inode);
        }
        let full = self.inner().open >= self.limits.descriptors;
        if full {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }

    /// Closes the descriptor of a file taken from the queue, or puts the file back.
    fn evict_if(&self, can: bool, inode: &Inode) {
        let mut inner = self.inner();
        if !inner.by_number.contains_key(&inode.number) {
            return;
        }
        let mut state = inode.state();
        if can && !state.used && state.held.take().is_some() {
            inner.open -= 1;
        } else if state.held.is_some() {
            inner.queue.push_back(inode.number);
        }
    }

    /// Whether some files are known without a descriptor, so that their names matter.
    fn has_evicted(&self) -> bool {
        let inner = self.inner();
        inner.open < inner.by_number.len()
    }

    /// Opens the file of a name that will be removed, since it cannot be found by this name
    /// later.
    pub fn keep(&self, dir: &Inode, above: &Held, name: &CStr) {
        if !self.has_evicted() {
            return;
        }
        if let Some(inode) = self.known_at(dir, above, name) {
            // On an error the file gets stale, which the guest tolerates.
            let _ = self.hold(&inode);
        }
    }

    /// Records a file's new name.
    pub fn renamed(&self, dir: &Inode, above: &Held, name: &CStr) {
        if !self.has_evicted() {
            return;
        }
        if let Some(inode) = self.known_at(dir, above, name) {
            let mut state = inode.state();
            state.parent = dir.number;
            state.name = name.to_owned();
        }
    }

    fn known_at(&self, dir: &Inode, above: &Held, name: &CStr) -> Option<Arc<Inode>> {
        let file = host::hold(&above.file, name).ok()?;
        let seen = host::stat(&file).ok()?;
        let inner = self.inner();
        let number = inner.by_key.get(&FileKey::new(&seen, &dir.place))?;
        let slot = inner.by_number.get(number)?;
        Some(Arc::clone(&slot.inode))
    }

    /// The number of known files, and of their descriptors.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.by_number.len(), inner.open)
    }
}

impl KnownFiles {
    fn insert(&mut self, new: New<'_>) -> Arc<Inode> {
        self.last += 1;
        let inode = Arc::new(Inode {
            number: self.last,
            key: FileKey::new(new.seen, &new.place),
            kind: new.seen.kind(),
            place: new.place,
            crossed: new.crossed,
            state: Mutex::new(InodeState {
                held: Some(Arc::new(new.held)),
                parent: new.parent,
                name: new.name.to_owned(),
                used: true,
            }),
        });
        let slot = Slot {
            inode: Arc::clone(&inode),
            count: 1,
        };
        self.by_number.insert(inode.number, slot);
        self.by_key.insert(inode.key, inode.number);
        self.opened(inode.number);
        inode
    }

    /// Takes the first file from the queue that was not used since its last check.
    fn next_unused(&mut self) -> Option<Arc<Inode>> {
        for _ in 0..=self.queue.len() {
            let number = self.queue.pop_front()?;
            let Some(slot) = self.by_number.get(&number) else {
                continue;
            };
            if !std::mem::take(&mut slot.inode.state().used) {
                return Some(Arc::clone(&slot.inode));
            }
            self.queue.push_back(number);
        }
        None
    }

    fn opened(&mut self, number: u64) {
        self.open += 1;
        if self.queue.len() > 2 * self.by_number.len() + 64 {
            let known = &self.by_number;
            self.queue.retain(|number| known.contains_key(number));
        }
        self.queue.push_back(number);
    }

    fn forget(&mut self, number: u64, count: u64) -> Option<Slot> {
        let slot = self.by_number.get_mut(&number)?;
        slot.count = slot.count.saturating_sub(count);
        if slot.count > 0 {
            return None;
        }
        let slot = self.by_number.remove(&number)?;
        let key = slot.inode.key;
        if self.by_key.get(&key) == Some(&number) {
            self.by_key.remove(&key);
        }
        if slot.inode.state().held.is_some() {
            self.open -= 1;
        }
        Some(slot)
    }
}

impl Inode {
    /// Records its last known place. Returns true if it had no descriptor.
    fn found_again(&self, new: New<'_>) -> bool {
        let mut state = self.state();
        state.used = true;
        state.parent = new.parent;
        if *state.name != *new.name {
            state.name = new.name.to_owned();
        }
        let had = state.held.as_ref().map(|held| held.mount);
        if had.is_none_or(|mount| new.held.mount.is_later_than(mount)) {
            state.held = Some(Arc::new(new.held));
        }
        had.is_none()
    }

    /// Whether it can be reopened by its name.
    fn is_evictable(&self, parent: &Inode) -> bool {
        if self.crossed || self.number == ROOT_ID {
            return false;
        }
        let above = parent.state().held.clone();
        above.is_some_and(|above| self.look_up(&above).is_ok())
    }

    /// Opens it by its name.
    fn look_up(&self, above: &Held) -> io::Result<OwnedFd> {
        let name = self.state().name.clone();
        let file = host::hold(&above.file, &name).map_err(|err| match err.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => stale(),
            _ => err,
        })?;
        let seen = host::stat(&file)?;
        let same = FileKey::new(&seen, &self.place) == self.key
            && seen.kind() == self.kind
            && above.mount.is(seen.mount);
        if same { Ok(file) } else { Err(stale()) }
    }
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
