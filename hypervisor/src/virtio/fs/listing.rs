//! Listing a directory: READDIR and READDIRPLUS.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom, seek};

use super::handles::{Handle, Open};
use super::node::Node;
use super::share::SharedDir;

/// What is read from a directory in one go.
const READ: usize = 32 << 10;

/// Walks over the entries of an open directory from a position, until `take` has no
/// more room. An error of `take` counts only if nothing was taken before: the guest
/// keeps the entries that it was given.
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

    /// Lists with attributes, as if the guest had looked up each name.
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
                // Without attributes, the guest asks for them if it wants them: of
                // what has just gone, or cannot be had.
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
