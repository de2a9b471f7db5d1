//! Creates, renames and removes names in the directories of a share.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use fuse_backend_rs::api::filesystem::{Context, Entry};
use rustix::fs::{AtFlags, Mode, RenameFlags, linkat, renameat_with, unlinkat};

use super::host::{As, Links};
use super::node::Node;
use super::share::SharedDir;

/// Refuses all names that are not plain names in a directory.
pub(super) fn plain(name: &CStr) -> io::Result<()> {
    let refused = match name.to_bytes() {
        b"" | b"." | b".." => true,
        bytes => bytes.contains(&b'/'),
    };
    match refused {
        true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        false => Ok(()),
    }
}

/// A mode without its type.
pub(super) fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

impl SharedDir {
    /// Creates a name in a directory by `make`, as the user of the request.
    pub(super) fn make(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        make: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> io::Result<Entry> {
        plain(name)?;
        let (_, above) = self.held(parent)?;
        {
            let _acting = As::user(ctx.uid, ctx.gid)?;
            make(&above.file)?;
        }
        self.entry(parent, name)
    }

    /// Adds a name to a file.
    pub(super) fn add_link(&self, node: Node, parent: Node, name: &CStr) -> io::Result<Entry> {
        plain(name)?;
        let (_, held) = self.held(node)?;
        let (_, above) = self.held(parent)?;
        // By the link to its descriptor: the use of the descriptor itself needs a capability
        // (CAP_DAC_READ_SEARCH) that allows reading all of a file system.
        let file = Links::name(&held.file);
        let flags = AtFlags::SYMLINK_FOLLOW;
        linkat(self.links.dir(), file, &above.file, name, flags)?;
        self.entry(parent, name)
    }

    /// Renames a file; both names are given with their directories.
    pub(super) fn rename_in(
        &self,
        (old_parent, old_name): (Node, &CStr),
        (new_parent, new_name): (Node, &CStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        plain(old_name)?;
        plain(new_name)?;
        let (old_dir, old) = self.held(old_parent)?;
        let (new_dir, new) = self.held(new_parent)?;
        self.table.keep(&new_dir, &new, new_name);
        renameat_with(&old.file, old_name, &new.file, new_name, flags)?;
        self.table.renamed(&new_dir, &new, new_name);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.table.renamed(&old_dir, &old, old_name);
        }
        Ok(())
    }

    /// Removes a name.
    pub(super) fn remove(&self, parent: Node, name: &CStr, flags: AtFlags) -> io::Result<()> {
        plain(name)?;
        let (dir, above) = self.held(parent)?;
        self.table.keep(&dir, &above, name);
        Ok(unlinkat(&above.file, name, flags)?)
    }
}
