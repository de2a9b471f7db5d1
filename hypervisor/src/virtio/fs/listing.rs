//! Listing a directory: READDIR and READDIRPLUS.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom, seek};

use super::handles::{Handle, Open};
use super::node::Node;
use super::share::SharedDir;

/// The bytes that are read from a directory in one call.
const READ: usize = 32 << 10;

/// Passes the entries of an open directory from a position to `take`, until it has no more
/// room. An error of `take` only counts before its first entry: the guest keeps earlier
/// entries.
fn walk(
    open: &Open,
    offset: u64,
    mut take: impl FnMut(&RawDirEntry<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); READ];
    let _guard = open.lock_position();
    seek(&open.file, SeekFrom::Start(offset))?;
    let mut entries = RawDir::new(&open.file, &mut space);
    let mut taken = false;
    while let Some(entry) = entries.next() {
        match entry
            .map_err(io::Error::from)
            .and_then(|entry| take(&entry))
        {
            Ok(0) => break,
            Ok(_) => taken = true,
            Err(err) if !taken => return Err(err),
            Err(_) => break,
        }
    }
    Ok(())
}

fn dirent<'a>(entry: &'a RawDirEntry<'_>, inode: u64) -> DirEntry<'a> {
    DirEntry {
        ino: inode,
        offset: entry.next_entry_cookie(),
        type_: kind(entry.file_type()),
        name: entry.file_name().to_bytes(),
    }
}

/// dirent.h, `DT_*`: the upper bits of a mode.
fn kind(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => libc::DT_UNKNOWN.into(),
        kind => kind.as_raw_mode() >> 12,
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

impl SharedDir {
    pub(super) fn list(
        &self,
        node: Node,
        handle: Handle,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let open = self.handles.get(node.inner(), handle)?;
        walk(&open, offset, |entry| add(dirent(entry, entry.ino())))
    }

    /// Lists with attributes; each name counts as a lookup by the guest.
    pub(super) fn list_found(
        &self,
        node: Node,
        handle: Handle,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let open = self.handles.get(node.inner(), handle)?;
        walk(&open, offset, |entry| {
            let name = entry.file_name();
            let found = if is_dots(name) {
                None
            } else {
                self.entry(node, name).ok()
            };
            let Some(found) = found else {
                // Without attributes, which the guest requests if it needs them: the file has
                // just been removed, or is unreadable.
                return add(dirent(entry, entry.ino()), Entry::default());
            };
            let taken = add(dirent(entry, found.attr.st_ino), found);
            if !matches!(taken, Ok(1..)) {
                self.table.forget(Node::from(found.inode).inner(), 1);
            }
            taken
        })
    }
}
