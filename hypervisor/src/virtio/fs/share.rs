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
//!   goes to the host at once (no write-back cache).
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

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

/// How long names and attributes are valid in the guest.
const TIMEOUT: Duration = Duration::ZERO;
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

type Inode = u64;
type Handle = u64;
type Opened = (Entry, Option<Handle>, OpenOptions, Option<u32>);

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
            attr_timeout: TIMEOUT,
            entry_timeout: TIMEOUT,
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

/// Methods that the passthrough serves as they are.
macro_rules! pass_through {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        $(fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
            self.inner.$name($($arg),*)
        })*
    };
}

#[allow(clippy::too_many_arguments)]
impl FileSystem for Share {
    type Inode = Inode;
    type Handle = Handle;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = self.inner.init(capable)?;
        Ok((wanted | OPTIONS) - FsOptions::PERFILE_DAX)
    }

    fn lookup(&self, ctx: &Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        match name.to_bytes() {
            b"." | b".." => errno(libc::EINVAL),
            _ => self.inner.lookup(ctx, parent, name),
        }
    }

    fn open(
        &self,
        ctx: &Context,
        inode: Inode,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions, Option<u32>)> {
        let flags = open_flags(flags) & !libc::O_EXCL as u32;
        self.inner.open(ctx, inode, flags, fuse_flags)
    }

    fn opendir(
        &self,
        ctx: &Context,
        inode: Inode,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let flags = open_flags(flags) & !(libc::O_EXCL | libc::O_TRUNC) as u32;
        self.inner.opendir(ctx, inode, flags)
    }

    fn create(
        &self,
        ctx: &Context,
        parent: Inode,
        name: &CStr,
        mut args: CreateIn,
    ) -> io::Result<Opened> {
        args.flags = open_flags(args.flags) | libc::O_NOFOLLOW as u32;
        self.inner.create(ctx, parent, name, args)
    }

    fn read(
        &self,
        ctx: &Context,
        inode: Inode,
        handle: Handle,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let flags = io_flags(flags);
        self.inner
            .read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write(
        &self,
        ctx: &Context,
        inode: Inode,
        handle: Handle,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let flags = io_flags(flags);
        self.inner.write(
            ctx,
            inode,
            handle,
            r,
            size,
            offset,
            lock_owner,
            delayed_write,
            flags,
            fuse_flags,
        )
    }

    fn readdir(
        &self,
        ctx: &Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(READDIR_MAX);
        self.inner
            .readdir(ctx, inode, handle, size, offset, add_entry)
    }

    fn readdirplus(
        &self,
        ctx: &Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(READDIR_MAX);
        self.inner
            .readdirplus(ctx, inode, handle, size, offset, add_entry)
    }

    fn setxattr(
        &self,
        ctx: &Context,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner.setxattr(ctx, inode, name, value, flags)
    }

    fn getxattr(
        &self,
        ctx: &Context,
        inode: Inode,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner.getxattr(ctx, inode, name, size.min(XATTR_MAX))
    }

    fn listxattr(&self, ctx: &Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        self.inner.listxattr(ctx, inode, size.min(XATTR_MAX))
    }

    fn removexattr(&self, ctx: &Context, inode: Inode, name: &CStr) -> io::Result<()> {
        if host_only(name) {
            return errno(libc::EOPNOTSUPP);
        }
        self.inner.removexattr(ctx, inode, name)
    }

    pass_through! {
        fn destroy();
        fn forget(ctx: &Context, inode: Inode, count: u64);
        fn batch_forget(ctx: &Context, requests: Vec<(Inode, u64)>);
        fn getattr(ctx: &Context, inode: Inode, handle: Option<Handle>)
            -> io::Result<(stat64, Duration)>;
        fn setattr(
            ctx: &Context, inode: Inode, attr: stat64, handle: Option<Handle>, valid: SetattrValid
        ) -> io::Result<(stat64, Duration)>;
        fn readlink(ctx: &Context, inode: Inode) -> io::Result<Vec<u8>>;
        fn symlink(ctx: &Context, target: &CStr, parent: Inode, name: &CStr) -> io::Result<Entry>;
        fn mknod(
            ctx: &Context, parent: Inode, name: &CStr, mode: u32, rdev: u32, umask: u32
        ) -> io::Result<Entry>;
        fn mkdir(ctx: &Context, parent: Inode, name: &CStr, mode: u32, umask: u32)
            -> io::Result<Entry>;
        fn unlink(ctx: &Context, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rmdir(ctx: &Context, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rename(
            ctx: &Context, olddir: Inode, oldname: &CStr, newdir: Inode, newname: &CStr, flags: u32
        ) -> io::Result<()>;
        fn link(ctx: &Context, inode: Inode, newparent: Inode, newname: &CStr)
            -> io::Result<Entry>;
        fn flush(ctx: &Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(ctx: &Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn fsyncdir(ctx: &Context, inode: Inode, datasync: bool, handle: Handle)
            -> io::Result<()>;
        fn fallocate(
            ctx: &Context, inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64
        ) -> io::Result<()>;
        fn release(
            ctx: &Context, inode: Inode, flags: u32, handle: Handle, flush: bool,
            flock_release: bool, lock_owner: Option<u64>
        ) -> io::Result<()>;
        fn releasedir(ctx: &Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn statfs(ctx: &Context, inode: Inode) -> io::Result<statvfs64>;
        fn access(ctx: &Context, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(ctx: &Context, inode: Inode, handle: Handle, offset: u64, whence: u32)
            -> io::Result<u64>;
    }
}
