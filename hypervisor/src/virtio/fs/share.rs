//! The shared directory as a FUSE file system: fuse-backend-rs's passthrough, with the
//! host protected from what a hostile guest may ask of it.
//!
//! What is added to the passthrough:
//!
//! - A name is one step down: `.` and `..` are refused everywhere, as is all that is
//!   not a plain name. The guest's kernel never asks for them, and a directory that is
//!   moved on the host must not become a way out of the share. The host opens with
//!   `O_NOFOLLOW` what is found under the name, so no path of the guest's is ever
//!   walked by the host, nor a link followed.
//! - Open flags are reduced to those with a meaning for a file that is there. `O_PATH`
//!   in particular would make the host follow a symbolic link that the guest made.
//! - `trusted.*` attributes belong to the host's overlayfs.
//! - Sizes that become allocations are bounded.
//! - Once it is made, a share needs no path of the host, neither its own nor `/proc`: it
//!   has descriptors of both, and works in the empty root of the jail. That includes
//!   the guest's reset of it ([`held`](super::held)).
//!
//! How the guest may cache, and why:
//!
//! - Host programs and the guest see each other's changes at once: names and attributes
//!   are valid for no time, so that every access asks the host, and data read before is
//!   dropped when size or modification time differ (`AUTO_INVAL_DATA`). Written data
//!   goes to the host at once (no write-back cache). Containers' roots are
//!   [another matter](super::node).
//! - Data stays in the guest's page cache otherwise, as `mmap` needs it.
//! - File locks and FIFOs are the guest kernel's own; nothing waits in the host.
//! - Without `POSIX_ACL` the guest stores ACLs, but judges by mode bits alone; with it
//!   every permission check would cost a request.
//! - An inode that the guest knows costs an open `O_PATH` descriptor. File handles
//!   (`open_by_handle_at`) would not, but cannot be had on overlayfs, which most
//!   container roots are, and fail for mounts on sockets and device nodes.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::descriptor;
use super::flags::{OPTIONS, UNWANTED, io_flags, open_flags, opened};
use super::held::Held;
use super::node::Node;
use super::xattr;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

/// What is read from a directory in one go.
const READDIR_MAX: u32 = 1 << 20;

pub(super) type Handle = u64;
type Opened = (Option<Handle>, OpenOptions, Option<u32>);
type Created = (Entry, Option<Handle>, OpenOptions, Option<u32>);

/// See the module.
pub(super) struct Share {
    inner: PassthroughFs,
    held: Held,
}

impl Share {
    /// Shares `dir`.
    pub fn new(dir: &Path) -> io::Result<Share> {
        let Some(root_dir) = dir.to_str().map(str::to_owned) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path is not UTF-8",
            ));
        };
        let inner = PassthroughFs::new(Config {
            root_dir,
            cache_policy: CachePolicy::Auto,
            writeback: false,
            xattr: true,
            killpriv_v2: true,
            no_open: false,
            no_opendir: false,
            // It would open the directory again whenever the guest says INIT.
            do_import: false,
            ..Config::default()
        })?;
        inner.import()?;
        Ok(Share {
            inner,
            held: Held::new(),
        })
    }

    /// Closes and forgets all that the guest has of it.
    pub fn forget_all(&self) {
        let context = Context::default();
        for (handle, inode) in self.held.take_handles() {
            // The guest may have closed it meanwhile.
            let _ = self
                .inner
                .release(&context, inode, 0, handle, false, false, None);
        }
        for inode in self.held.inodes() {
            self.inner.forget(&context, inode, u64::MAX);
        }
    }

    /// What the guest is told of an entry found in `parent`.
    fn found(&self, parent: Node, name: &CStr, mut entry: Entry) -> Entry {
        self.held.knows(entry.inode);
        let node = parent.child(name, entry.inode);
        entry.inode = node.into();
        entry.attr_timeout = node.attr_timeout();
        entry.entry_timeout = parent.entry_timeout();
        entry
    }
}

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// Refuses all but names of things in a directory.
fn plain(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => errno(libc::EINVAL),
        bytes if bytes.contains(&b'/') => errno(libc::EINVAL),
        _ => Ok(()),
    }
}

/// What the guest is told of attributes.
fn attributes(node: Node, attr: (stat64, Duration)) -> (stat64, Duration) {
    (attr.0, node.attr_timeout())
}

/// Methods on one inode that the passthrough serves as they are.
macro_rules! pass_through {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        $(fn $name(&self, ctx: &Context, node: Node, $($arg: $ty),*) $(-> $ret)? {
            self.inner.$name(ctx, node.inner(), $($arg),*)
        })*
    };
}

/// Methods that find or make something in a directory.
macro_rules! make_entry {
    ($(fn $name:ident($name_arg:ident: &CStr $(, $arg:ident: $ty:ty)*);)*) => {
        $(fn $name(&self, ctx: &Context, parent: Node, $name_arg: &CStr, $($arg: $ty),*)
            -> io::Result<Entry>
        {
            plain($name_arg)?;
            let entry = self.inner.$name(ctx, parent.inner(), $name_arg, $($arg),*)?;
            Ok(self.found(parent, $name_arg, entry))
        })*
    };
}

#[allow(clippy::too_many_arguments)]
impl FileSystem for Share {
    type Inode = Node;
    type Handle = Handle;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = self.inner.init(capable - UNWANTED)?;
        Ok(wanted | OPTIONS)
    }

    fn destroy(&self) {
        self.forget_all();
    }

    fn batch_forget(&self, ctx: &Context, requests: Vec<(Node, u64)>) {
        let requests = requests
            .into_iter()
            .map(|(node, count)| (node.inner(), count));
        self.inner.batch_forget(ctx, requests.collect());
    }

    fn lookup(&self, ctx: &Context, parent: Node, name: &CStr) -> io::Result<Entry> {
        plain(name)?;
        match self.inner.lookup(ctx, parent.inner(), name) {
            Ok(entry) => Ok(self.found(parent, name, entry)),
            // An entry without an inode says for how long there is none.
            Err(err) if parent.is_private() && err.raw_os_error() == Some(libc::ENOENT) => {
                Ok(Entry {
                    entry_timeout: parent.entry_timeout(),
                    ..Entry::default()
                })
            }
            Err(err) => Err(err),
        }
    }

    make_entry! {
        fn mkdir(name: &CStr, mode: u32, umask: u32);
        fn mknod(name: &CStr, mode: u32, rdev: u32, umask: u32);
    }

    fn symlink(
        &self,
        ctx: &Context,
        target: &CStr,
        parent: Node,
        name: &CStr,
    ) -> io::Result<Entry> {
        plain(name)?;
        let entry = self.inner.symlink(ctx, target, parent.inner(), name)?;
        Ok(self.found(parent, name, entry))
    }

    fn link(&self, ctx: &Context, node: Node, parent: Node, name: &CStr) -> io::Result<Entry> {
        plain(name)?;
        let (inode, dir) = (node.inner(), parent.inner());
        let file = descriptor::open(&self.inner, inode)?;
        let entry = match (file, descriptor::open(&self.inner, dir)?) {
            (Some(file), Some(dir_file)) => {
                descriptor::link(&self.inner, &file, &dir_file, name)?;
                self.inner.lookup(ctx, dir, name)?
            }
            // Of a special file or a link, which few make, and not in the jail.
            _ => self.inner.link(ctx, inode, dir, name)?,
        };
        Ok(self.found(parent, name, entry))
    }

    fn rename(
        &self,
        ctx: &Context,
        old_parent: Node,
        old_name: &CStr,
        new_parent: Node,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        plain(old_name)?;
        plain(new_name)?;
        let (old, new) = (old_parent.inner(), new_parent.inner());
        self.inner.rename(ctx, old, old_name, new, new_name, flags)
    }

    fn getattr(
        &self,
        ctx: &Context,
        node: Node,
        handle: Option<Handle>,
    ) -> io::Result<(stat64, Duration)> {
        let attr = self.inner.getattr(ctx, node.inner(), handle)?;
        Ok(attributes(node, attr))
    }

    fn setattr(
        &self,
        ctx: &Context,
        node: Node,
        attr: stat64,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let attr = self.inner.setattr(ctx, node.inner(), attr, handle, valid)?;
        Ok(attributes(node, attr))
    }

    fn open(&self, ctx: &Context, node: Node, flags: u32, fuse_flags: u32) -> io::Result<Opened> {
        let flags = open_flags(flags) & !libc::O_EXCL as u32;
        let (handle, options, backing) = self.inner.open(ctx, node.inner(), flags, fuse_flags)?;
        self.held.opened(handle, node.inner());
        Ok((handle, opened(node, flags, options), backing))
    }

    fn opendir(
        &self,
        ctx: &Context,
        node: Node,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let flags = open_flags(flags) & !(libc::O_EXCL | libc::O_TRUNC) as u32;
        let (handle, options) = self.inner.opendir(ctx, node.inner(), flags)?;
        self.held.opened(handle, node.inner());
        let flags = flags | libc::O_DIRECTORY as u32;
        Ok((handle, opened(node, flags, options)))
    }

    fn create(
        &self,
        ctx: &Context,
        parent: Node,
        name: &CStr,
        mut args: CreateIn,
    ) -> io::Result<Created> {
        plain(name)?;
        let flags = open_flags(args.flags);
        args.flags = flags | libc::O_NOFOLLOW as u32;
        let (entry, handle, options, backing) =
            self.inner.create(ctx, parent.inner(), name, args)?;
        self.held.opened(handle, entry.inode);
        let entry = self.found(parent, name, entry);
        let options = opened(entry.inode.into(), flags, options);
        Ok((entry, handle, options, backing))
    }

    fn read(
        &self,
        ctx: &Context,
        node: Node,
        handle: Handle,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let (inode, flags) = (node.inner(), io_flags(flags));
        self.inner
            .read(ctx, inode, handle, w, size, offset, owner, flags)
    }

    fn write(
        &self,
        ctx: &Context,
        node: Node,
        handle: Handle,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        delayed: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let (inode, flags) = (node.inner(), io_flags(flags));
        self.inner.write(
            ctx, inode, handle, r, size, offset, owner, delayed, flags, fuse_flags,
        )
    }

    fn readdir(
        &self,
        ctx: &Context,
        node: Node,
        handle: Handle,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(READDIR_MAX);
        self.inner
            .readdir(ctx, node.inner(), handle, size, offset, add_entry)
    }

    fn readdirplus(
        &self,
        ctx: &Context,
        node: Node,
        handle: Handle,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(READDIR_MAX);
        let mut add = |dir: DirEntry, entry: Entry| {
            let entry = match std::ffi::CString::new(dir.name) {
                Ok(name) => self.found(node, &name, entry),
                Err(err) => return Err(err.into()),
            };
            add_entry(dir, entry)
        };
        self.inner
            .readdirplus(ctx, node.inner(), handle, size, offset, &mut add)
    }

    fn setxattr(
        &self,
        _: &Context,
        node: Node,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        if xattr::host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        xattr::set(&self.inner, node.inner(), name, value, flags)
    }

    fn getxattr(
        &self,
        _: &Context,
        node: Node,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if xattr::host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        xattr::get(&self.inner, node.inner(), name, size)
    }

    fn listxattr(&self, _: &Context, node: Node, size: u32) -> io::Result<ListxattrReply> {
        xattr::list(&self.inner, node.inner(), size)
    }

    fn removexattr(&self, _: &Context, node: Node, name: &CStr) -> io::Result<()> {
        if xattr::host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        xattr::remove(&self.inner, node.inner(), name)
    }

    fn unlink(&self, ctx: &Context, parent: Node, name: &CStr) -> io::Result<()> {
        plain(name)?;
        self.inner.unlink(ctx, parent.inner(), name)
    }

    fn rmdir(&self, ctx: &Context, parent: Node, name: &CStr) -> io::Result<()> {
        plain(name)?;
        self.inner.rmdir(ctx, parent.inner(), name)
    }

    fn release(
        &self,
        ctx: &Context,
        node: Node,
        flags: u32,
        handle: Handle,
        flush: bool,
        flock_release: bool,
        owner: Option<u64>,
    ) -> io::Result<()> {
        let inode = node.inner();
        self.inner
            .release(ctx, inode, flags, handle, flush, flock_release, owner)?;
        self.held.closed(handle);
        Ok(())
    }

    fn releasedir(&self, ctx: &Context, node: Node, flags: u32, handle: Handle) -> io::Result<()> {
        self.inner.releasedir(ctx, node.inner(), flags, handle)?;
        self.held.closed(handle);
        Ok(())
    }

    pass_through! {
        fn forget(count: u64);
        fn readlink() -> io::Result<Vec<u8>>;
        fn flush(handle: Handle, owner: u64) -> io::Result<()>;
        fn fsync(datasync: bool, handle: Handle) -> io::Result<()>;
        fn fsyncdir(datasync: bool, handle: Handle) -> io::Result<()>;
        fn fallocate(handle: Handle, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn statfs() -> io::Result<statvfs64>;
        fn access(mask: u32) -> io::Result<()>;
        fn lseek(handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
    }
}
