//! Files of a share, opened for the guest.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FOPEN_IN_KILL_SUIDGID};
use fuse_backend_rs::api::filesystem::{Context, Entry, OpenOptions};
use rustix::fs::{FileType, OFlags, openat};

use super::flags::{open_flags, opened};
use super::handles::Handle;
use super::host::{As, keeping_set_id};
use super::names::{mode, plain};
use super::node::Node;
use super::share::SharedDir;

/// The answer to an open request.
pub(super) type Opened = (Option<Handle>, OpenOptions, Option<u32>);
/// The answer to a create request.
pub(super) type Created = (Entry, Option<Handle>, OpenOptions, Option<u32>);

impl SharedDir {
    /// Opens an existing file for the guest.
    pub(super) fn open_for(&self, node: Node, flags: u32, kill: bool) -> io::Result<OwnedFd> {
        self.handles.make_room()?;
        if flags & libc::O_TRUNC as u32 == 0 {
            return self.reopen(node, flags);
        }
        let file = self.reopen(node, flags & !libc::O_TRUNC as u32)?;
        keeping_set_id(&file, kill, || self.reopen(node, flags))
    }

    /// Creates a file and opens it, or opens the existing one.
    pub(super) fn open_new(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<Created> {
        plain(name)?;
        self.handles.make_room()?;
        let flags = open_flags(args.flags);
        let (_, above) = self.held(parent)?;
        let made = {
            let _acting = As::user(ctx.uid, ctx.gid)?;
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let how = OFlags::from_bits_retain(flags) | new;
            openat(
                &above.file,
                name,
                how,
                mode(args.mode & !(args.umask & 0o777)),
            )
        };
        let is_exclusive = flags & libc::O_EXCL as u32 != 0;
        let made = match made {
            Ok(file) => Some(file),
            Err(rustix::io::Errno::EXIST) if !is_exclusive => None,
            Err(err) => return Err(err.into()),
        };
        let entry = self.entry(parent, name)?;
        let node = Node::from(entry.inode);
        let file = match made {
            Some(file) => Ok(file),
            None => {
                let kill = args.fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
                self.open_for(node, flags, kill)
            }
        };
        let file = file.inspect_err(|_| self.table.forget(node.inner(), 1))?;
        let handle = self.handles.insert(node.inner(), file, flags);
        Ok((entry, Some(handle), opened(node, flags), None))
    }

    /// Opens a file or directory for reading; `None` for other kinds.
    pub(super) fn reopen_some(&self, node: Node) -> io::Result<Option<OwnedFd>> {
        let (inode, held) = self.held(node)?;
        match inode.kind {
            FileType::RegularFile | FileType::Directory => {
                let flags = libc::O_NONBLOCK as u32;
                self.links.reopen(&held.file, inode.kind, flags).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Opens a file or directory for reading; `special` is the error for other kinds.
    pub(super) fn reopen_or(&self, node: Node, special: i32) -> io::Result<OwnedFd> {
        let file = self.reopen_some(node)?;
        file.ok_or_else(|| io::Error::from_raw_os_error(special))
    }
}
