//! The FUSE requests, as fuse-backend-rs passes them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FOPEN_IN_KILL_SUIDGID, WRITE_KILL_PRIV, stat64, statvfs64,
};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, RenameFlags, SeekFrom, XattrFlags, fallocate, fdatasync,
    fremovexattr, fsetxattr, fsync, mkdirat, mknodat, readlinkat, seek, symlinkat,
};

use super::change;
use super::flags::{OPTIONS, io_flags, open_flags, opened};
use super::handles::Handle;
use super::host::keeping_set_id;
use super::names::{mode, plain};
use super::node::Node;
use super::open::{Created, Opened};
use super::share::SharedDir;
use super::xattr;

#[allow(clippy::too_many_arguments)]
impl FileSystem for SharedDir {
    type Inode = Node;
    type Handle = Handle;

    fn init(&self, _: FsOptions) -> io::Result<FsOptions> {
        Ok(OPTIONS)
    }

    fn destroy(&self) {
        self.forget_all();
    }

    fn forget(&self, _: &Context, node: Node, count: u64) {
        self.table.forget(node.inner(), count);
    }

    fn lookup(&self, _: &Context, parent: Node, name: &CStr) -> io::Result<Entry> {
        plain(name)?;
        match self.entry(parent, name) {
            // An entry without an inode tells the guest how long the name stays unused.
            Err(err) if parent.is_private() && err.raw_os_error() == Some(libc::ENOENT) => {
                Ok(Entry {
                    entry_timeout: parent.entry_timeout(),
                    ..Entry::default()
                })
            }
            result => result,
        }
    }

    fn mkdir(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        bits: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let mode = mode(bits & !umask);
        self.make(ctx, parent, name, |dir| mkdirat(dir, name, mode))
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        bits: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let kind = match FileType::from_raw_mode(bits) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        let mode = mode(bits & !umask);
        self.make(ctx, parent, name, |dir| {
            mknodat(dir, name, kind, mode, rdev.into())
        })
    }

    fn symlink(
        &self,
        ctx: &Context,
        target: &CStr,
        parent: Node,
        name: &CStr,
    ) -> io::Result<Entry> {
        self.make(ctx, parent, name, |dir| symlinkat(target, dir, name))
    }

    fn link(&self, _: &Context, node: Node, parent: Node, name: &CStr) -> io::Result<Entry> {
        self.add_link(node, parent, name)
    }

    fn unlink(&self, _: &Context, parent: Node, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    fn rmdir(&self, _: &Context, parent: Node, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        _: &Context,
        old_parent: Node,
        old_name: &CStr,
        new_parent: Node,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        self.rename_in((old_parent, old_name), (new_parent, new_name), flags)
    }

    fn readlink(&self, _: &Context, node: Node) -> io::Result<Vec<u8>> {
        let (_, held) = self.held(node)?;
        Ok(readlinkat(&held.file, c"", Vec::new())?.into_bytes())
    }

    fn getattr(
        &self,
        _: &Context,
        node: Node,
        handle: Option<Handle>,
    ) -> io::Result<(stat64, Duration)> {
        let stat = match handle {
            Some(handle) => {
                let open = self.handles.get(node.inner(), handle)?;
                self.stat(&*self.table.get(node.inner())?, &open.file)?
            }
            None => {
                let (inode, held) = self.held(node)?;
                self.stat(&inode, &held.file)?
            }
        };
        Ok((stat, node.attr_timeout()))
    }

    fn setattr(
        &self,
        ctx: &Context,
        node: Node,
        attr: stat64,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let (inode, held) = self.held(node)?;
        match handle {
            Some(handle) => {
                let open = self.handles.get(node.inner(), handle)?;
                change::open_file(&open.file, &attr, valid)?;
            }
            None => change::held_file(&self.links, &held.file, inode.kind, &attr, valid)?,
        }
        self.getattr(ctx, node, handle)
    }

    fn open(&self, _: &Context, node: Node, flags: u32, fuse_flags: u32) -> io::Result<Opened> {
        let flags = open_flags(flags) & !libc::O_EXCL as u32;
        let kill = fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
        let file = self.open_for(node, flags, kill)?;
        let handle = self.handles.insert(node.inner(), file, flags);
        Ok((Some(handle), opened(node, flags), None))
    }

    fn opendir(
        &self,
        _: &Context,
        node: Node,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let flags = open_flags(flags) & !(libc::O_EXCL | libc::O_TRUNC) as u32;
        let flags = flags | libc::O_DIRECTORY as u32;
        let file = self.open_for(node, flags, false)?;
        let handle = self.handles.insert(node.inner(), file, flags);
        Ok((Some(handle), opened(node, flags)))
    }

    fn create(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<Created> {
        self.open_new(ctx, parent, name, args)
    }

    fn read(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let open = self.handles.get(node.inner(), handle)?;
        open.set_flags(io_flags(flags))?;
        w.write_from(&mut *borrowed(&open.file), size as usize, offset)
    }

    fn write(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _owner: Option<u64>,
        _delayed: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let open = self.handles.get(node.inner(), handle)?;
        open.set_flags(io_flags(flags))?;
        keeping_set_id(&open.file, fuse_flags & WRITE_KILL_PRIV != 0, || {
            r.read_to(&mut *borrowed(&open.file), size as usize, offset)
        })
    }

    fn fallocate(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let open = self.handles.get(node.inner(), handle)?;
        // The guest's kernel has removed the bits where necessary.
        keeping_set_id(&open.file, false, || {
            let mode = FallocateFlags::from_bits_retain(mode);
            Ok(fallocate(&open.file, mode, offset, length)?)
        })
    }

    fn lseek(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        let open = self.handles.get(node.inner(), handle)?;
        let signed = offset.cast_signed();
        let to = match whence.cast_signed() {
            libc::SEEK_SET => SeekFrom::Start(offset),
            libc::SEEK_CUR => SeekFrom::Current(signed),
            libc::SEEK_END => SeekFrom::End(signed),
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let _guard = open.lock_position();
        Ok(seek(&open.file, to)?)
    }

    fn flush(&self, _: &Context, node: Node, handle: Handle, _owner: u64) -> io::Result<()> {
        // A file system reports errors of close(2) also for a copy of the descriptor.
        let open = self.handles.get(node.inner(), handle)?;
        let copy = rustix::io::dup(&open.file)?;
        // SAFETY: the descriptor is owned, and given away here.
        match unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(copy)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn fsync(&self, _: &Context, node: Node, data: bool, handle: Handle) -> io::Result<()> {
        let open = self.handles.get(node.inner(), handle)?;
        let file = open.file.as_fd();
        Ok(if data { fdatasync(file) } else { fsync(file) }?)
    }

    fn fsyncdir(&self, ctx: &Context, node: Node, data: bool, handle: Handle) -> io::Result<()> {
        self.fsync(ctx, node, data, handle)
    }

    fn release(
        &self,
        _: &Context,
        node: Node,
        _flags: u32,
        handle: Handle,
        _flush: bool,
        _flock_release: bool,
        _owner: Option<u64>,
    ) -> io::Result<()> {
        self.handles.remove(node.inner(), handle)
    }

    fn releasedir(&self, _: &Context, node: Node, _flags: u32, handle: Handle) -> io::Result<()> {
        self.handles.remove(node.inner(), handle)
    }

    fn readdir(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(node, handle, offset, add_entry)
    }

    fn readdirplus(
        &self,
        _: &Context,
        node: Node,
        handle: Handle,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list_found(node, handle, offset, add_entry)
    }

    fn statfs(&self, _: &Context, node: Node) -> io::Result<statvfs64> {
        let (_, held) = self.held(node)?;
        // SAFETY: plain numbers; zero is valid.
        let mut out: statvfs64 = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills in `out`, which outlives the call.
        match unsafe { libc::fstatvfs64(held.file.as_raw_fd(), &raw mut out) } {
            0 => Ok(out),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn setxattr(
        &self,
        _: &Context,
        node: Node,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        xattr::for_guest(name)?;
        let file = self.reopen_or(node, libc::EOPNOTSUPP)?;
        let flags = XattrFlags::from_bits_retain(flags);
        Ok(fsetxattr(file, name, value, flags)?)
    }

    fn getxattr(
        &self,
        _: &Context,
        node: Node,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        xattr::for_guest(name)?;
        xattr::get(self.reopen_or(node, libc::ENODATA)?, name, size)
    }

    fn listxattr(&self, _: &Context, node: Node, size: u32) -> io::Result<ListxattrReply> {
        xattr::list(self.reopen_some(node)?, size)
    }

    fn removexattr(&self, _: &Context, node: Node, name: &CStr) -> io::Result<()> {
        xattr::for_guest(name)?;
        Ok(fremovexattr(self.reopen_or(node, libc::ENODATA)?, name)?)
    }
}

/// The type of file that fuse-backend-rs needs; a drop does not close it.
fn borrowed(file: &File) -> ManuallyDrop<File> {
    // SAFETY: the descriptor is open while `file` is borrowed by the caller, and is not
    // closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(file.as_raw_fd()) })
}
