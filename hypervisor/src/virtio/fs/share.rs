//! The shared directory as a FUSE file system: fuse-backend-rs's passthrough, with the
//! host protected from what a hostile guest may ask of it.
//!
//! What is added to the passthrough:
//!
//! - `.` and `..` are not looked up. The guest's kernel never asks for them, and a
//!   directory that is moved on the host must not become a way out of the share.
//! - Open flags are reduced to those with a meaning for a file that is there. `O_PATH`
//!   in particular would make the host follow a symbolic link that the guest made.
//! - `trusted.*` attributes belong to the host's overlayfs.
//! - Sizes that become allocations are bounded.
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

use super::node::Node;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

/// The longest extended attribute and list of them (xattr(7)).
const XATTR_MAX: u32 = 64 << 10;
/// What is read from a directory in one go.
const READDIR_MAX: u32 = 1 << 20;

/// Open flags that a guest may pass.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_DSYNC
    | libc::O_EXCL
    | libc::O_LARGEFILE
    | libc::O_NOATIME
    | libc::O_NOFOLLOW
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_TRUNC;

/// What is offered to the guest's FUSE client beyond what the passthrough asks for.
const OPTIONS: FsOptions = FsOptions::from_bits_truncate(
    FsOptions::ASYNC_READ.bits()
        | FsOptions::ASYNC_DIO.bits()
        | FsOptions::ATOMIC_O_TRUNC.bits()
        | FsOptions::AUTO_INVAL_DATA.bits()
        | FsOptions::BIG_WRITES.bits()
        | FsOptions::MAX_PAGES.bits()
        | FsOptions::PARALLEL_DIROPS.bits(),
);

/// FUSE 7.35: closing needs no request. Unknown to fuse-backend-rs.
const FOPEN_NOFLUSH: u32 = 1 << 5;

type Handle = u64;
type Opened = (Option<Handle>, OpenOptions, Option<u32>);
type Created = (Entry, Option<Handle>, OpenOptions, Option<u32>);

/// See the module.
pub(super) struct Share {
    inner: PassthroughFs,
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
            do_import: true,
            ..Config::default()
        })?;
        inner.import()?;
        Ok(Share { inner })
    }
}

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

fn open_flags(flags: u32) -> u32 {
    flags & OPEN_FLAGS as u32
}

/// Flags that come with each read and write: those of the open file, as fcntl(2) sees
/// them.
fn io_flags(flags: u32) -> u32 {
    open_flags(flags) & !(libc::O_TRUNC | libc::O_EXCL) as u32
}

fn host_only(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"trusted.")
}

/// What the guest is told of an entry found in `parent`.
fn found(parent: Node, name: &CStr, mut entry: Entry) -> Entry {
    let node = parent.child(name, entry.inode);
    entry.inode = node.into();
    entry.attr_timeout = node.attr_timeout();
    entry.entry_timeout = parent.entry_timeout();
    entry
}

/// What the guest is told of attributes.
fn attributes(node: Node, attr: (stat64, Duration)) -> (stat64, Duration) {
    (attr.0, node.attr_timeout())
}

/// How the guest may use an open file or directory.
fn opened(node: Node, flags: u32, mut options: OpenOptions) -> OpenOptions {
    if node.is_private() {
        options |= OpenOptions::KEEP_CACHE;
        if flags & libc::O_DIRECTORY as u32 != 0 {
            options |= OpenOptions::CACHE_DIR;
        }
    }
    if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
        // Closing tells of failed writes, of which there are none.
        let bits = options.bits() | FOPEN_NOFLUSH;
        // SAFETY: the type is a number on its way to the guest; any bits are fine.
        options = unsafe { OpenOptions::from_bits_unchecked(bits) };
    }
    options
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
            let entry = self.inner.$name(ctx, parent.inner(), $name_arg, $($arg),*)?;
            Ok(found(parent, $name_arg, entry))
        })*
    };
}

#[allow(clippy::too_many_arguments)]
impl FileSystem for Share {
    type Inode = Node;
    type Handle = Handle;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = self.inner.init(capable)?;
        Ok((wanted | OPTIONS) - FsOptions::PERFILE_DAX)
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    fn batch_forget(&self, ctx: &Context, requests: Vec<(Node, u64)>) {
        let requests = requests
            .into_iter()
            .map(|(node, count)| (node.inner(), count));
        self.inner.batch_forget(ctx, requests.collect());
    }

    fn lookup(&self, ctx: &Context, parent: Node, name: &CStr) -> io::Result<Entry> {
        if matches!(name.to_bytes(), b"." | b"..") {
            return errno(libc::EINVAL);
        }
        match self.inner.lookup(ctx, parent.inner(), name) {
            Ok(entry) => Ok(found(parent, name, entry)),
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
        let entry = self.inner.symlink(ctx, target, parent.inner(), name)?;
        Ok(found(parent, name, entry))
    }

    fn link(&self, ctx: &Context, node: Node, parent: Node, name: &CStr) -> io::Result<Entry> {
        let entry = self.inner.link(ctx, node.inner(), parent.inner(), name)?;
        Ok(found(parent, name, entry))
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
        let flags = open_flags(args.flags);
        args.flags = flags | libc::O_NOFOLLOW as u32;
        let (entry, handle, options, backing) =
            self.inner.create(ctx, parent.inner(), name, args)?;
        let entry = found(parent, name, entry);
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
                Ok(name) => found(node, &name, entry),
                Err(err) => return Err(err.into()),
            };
            add_entry(dir, entry)
        };
        self.inner
            .readdirplus(ctx, node.inner(), handle, size, offset, &mut add)
    }

    fn setxattr(
        &self,
        ctx: &Context,
        node: Node,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner.setxattr(ctx, node.inner(), name, value, flags)
    }

    fn getxattr(
        &self,
        ctx: &Context,
        node: Node,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner
            .getxattr(ctx, node.inner(), name, size.min(XATTR_MAX))
    }

    fn listxattr(&self, ctx: &Context, node: Node, size: u32) -> io::Result<ListxattrReply> {
        self.inner.listxattr(ctx, node.inner(), size.min(XATTR_MAX))
    }

    fn removexattr(&self, ctx: &Context, node: Node, name: &CStr) -> io::Result<()> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner.removexattr(ctx, node.inner(), name)
    }

    pass_through! {
        fn forget(count: u64);
        fn readlink() -> io::Result<Vec<u8>>;
        fn unlink(name: &CStr) -> io::Result<()>;
        fn rmdir(name: &CStr) -> io::Result<()>;
        fn flush(handle: Handle, owner: u64) -> io::Result<()>;
        fn fsync(datasync: bool, handle: Handle) -> io::Result<()>;
        fn fsyncdir(datasync: bool, handle: Handle) -> io::Result<()>;
        fn fallocate(handle: Handle, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn release(
            flags: u32, handle: Handle, flush: bool, flock_release: bool, owner: Option<u64>
        ) -> io::Result<()>;
        fn releasedir(flags: u32, handle: Handle) -> io::Result<()>;
        fn statfs() -> io::Result<statvfs64>;
        fn access(mask: u32) -> io::Result<()>;
        fn lseek(handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
    }
}
