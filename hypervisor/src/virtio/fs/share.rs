//! The shared directory as a FUSE file system, which protects the host from a hostile guest.
//!
//! fuse-backend-rs reads the requests and writes the answers. Its passthrough file system is
//! not used: it does not bound the memory for a guest, does not distinguish mounts for the
//! guest, and opens files by paths that the jail does not have.
//!
//! - A name is one step down: `.` and `..` are refused everywhere, and so is any other name
//!   that is not plain. The guest's kernel never sends them, and a directory that is moved on
//!   the host must not allow a way out of the share. The host opens the file of a name with
//!   `O_NOFOLLOW`, so it never walks a path of the guest or follows a link.
//! - Open flags are reduced to those with a meaning for an existing file. In particular,
//!   `O_PATH` would make the host follow a symbolic link that the guest made.
//! - `trusted.*` attributes belong to the host's overlayfs.
//! - Sizes that become allocations are bounded, and so are the files that the guest
//!   [knows](super::table) and [has open](super::handles).
//! - After its construction, a share needs no path of the host, neither its own nor `/proc`: it
//!   has descriptors of both, and works in the empty root of the jail.
//!
//! Rules for the guest's caches:
//!
//! - Host programs and the guest see each other's changes at once: the guest may not cache
//!   names and attributes, so that every access asks the host, and drops cached data when size
//!   or modification time differ (`AUTO_INVAL_DATA`). Written data is sent to the host at once
//!   (no write-back cache). Containers' roots [differ](super::node).
//! - Otherwise data stays in the guest's page cache, since `mmap` needs it.
//! - File locks, sockets and FIFOs exist in the guest's kernel only; no operation waits in the
//!   host.
//! - Without `POSIX_ACL` the guest stores ACLs, but checks mode bits only; with it, every
//!   permission check would need a request.
//! - An `O_PATH` descriptor holds each file that the guest knows. File handles
//!   (`open_by_handle_at`) do not work on overlayfs, which most container roots use, and need
//!   `CAP_DAC_READ_SEARCH` on the host.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{ATTR_SUBMOUNT, stat64};
use fuse_backend_rs::api::filesystem::{Entry, ROOT_ID};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::jail;

use super::handles::Handles;
use super::host::{self, FileStat, Links};
use super::node::Node;
use super::place::Places;
use super::table::{Held, Inode, Limits, New, Table};

/// Descriptors for other uses than the guest's files: sockets, queues, disks.
const OTHERS: usize = 1024;

/// See the module.
pub(super) struct SharedDir {
    pub(super) links: Links,
    places: Places,
    pub(super) table: Table,
    pub(super) handles: Handles,
}

impl SharedDir {
    /// Shares `dir`. The guest may know `files` files.
    pub fn new(dir: &Path, files: usize) -> io::Result<SharedDir> {
        let max = jail::max_open_files();
        let left = max.saturating_sub(OTHERS).max(max / 2);
        // Only the guest closes open files.
        let open = left / 2;
        let limits = Limits {
            files,
            descriptors: left - open,
        };
        SharedDir::with(dir, limits, open)
    }

    pub(super) fn with(dir: &Path, limits: Limits, open: usize) -> io::Result<SharedDir> {
        let links = Links::open()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, dir, flags, Mode::empty())?;
        let seen = host::stat(&file)?;
        let (places, found) = Places::new(&seen);
        let root = New {
            seen: &seen,
            place: found.place,
            crossed: false,
            held: Held {
                file,
                mount: found.mount,
            },
            parent: ROOT_ID,
            name: c".",
        };
        Ok(SharedDir {
            links,
            places,
            table: Table::new(limits, root),
            handles: Handles::new(open),
        })
    }

    /// Closes and forgets all files that the guest has.
    pub fn forget_all(&self) {
        self.handles.remove_all();
        self.table.forget_all();
    }

    /// The inode that the guest names, with a held descriptor.
    pub(super) fn held(&self, node: Node) -> io::Result<(Arc<Inode>, Arc<Held>)> {
        let inode = self.table.get(node.inner())?;
        let held = self.table.hold(&inode)?;
        Ok((inode, held))
    }

    /// Opens a file or directory that the guest names.
    pub(super) fn reopen(&self, node: Node, flags: u32) -> io::Result<OwnedFd> {
        let (inode, held) = self.held(node)?;
        self.links.reopen(&held.file, inode.kind, flags)
    }

    /// Looks a name up; from then on the guest knows the file.
    pub(super) fn find(&self, parent: Node, name: &CStr) -> io::Result<(Arc<Inode>, FileStat)> {
        let (dir, above) = self.held(parent)?;
        self.table.make_room()?;
        let file = host::hold(&above.file, name)?;
        let seen = host::stat(&file)?;
        let places = &self.places;
        let found = places.find(&dir.place, dir.key, above.mount, name, &seen);
        let new = New {
            seen: &seen,
            place: found.place,
            crossed: found.crossed,
            held: Held {
                file,
                mount: found.mount,
            },
            parent: dir.number,
            name,
        };
        Ok((self.table.add_lookup(new)?, seen))
    }

    /// As [`SharedDir::find`], with the answer for the guest.
    pub(super) fn entry(&self, parent: Node, name: &CStr) -> io::Result<Entry> {
        let (inode, seen) = self.find(parent, name)?;
        let node = parent.child(name, inode.number);
        // The guest can only mount a directory automatically.
        let is_mount = inode.crossed && inode.kind.is_dir();
        Ok(Entry {
            inode: node.into(),
            generation: 0,
            attr: attributes(&inode, &seen),
            attr_flags: if is_mount { ATTR_SUBMOUNT } else { 0 },
            attr_timeout: node.attr_timeout(),
            entry_timeout: parent.entry_timeout(),
        })
    }

    /// The attributes of a file, as the guest sees them.
    pub(super) fn stat(&self, inode: &Inode, file: impl AsFd) -> io::Result<stat64> {
        Ok(attributes(inode, &host::stat(file)?))
    }
}

fn attributes(inode: &Inode, seen: &FileStat) -> stat64 {
    let mut stat = seen.stat;
    stat.st_ino = inode.place.number_of(stat.st_dev, stat.st_ino);
    stat
}
