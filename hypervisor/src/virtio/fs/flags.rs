//! Flags of FUSE and of opened files, as a guest passes and gets them.

use fuse_backend_rs::api::filesystem::{FsOptions, OpenOptions};

use super::node::Node;

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

/// The features offered to the guest's FUSE client. Missing on purpose: reads of files that are
/// not open, write-back caching in the guest, mapping files into the guest.
pub(super) const OPTIONS: FsOptions = FsOptions::from_bits_truncate(
    FsOptions::ASYNC_READ.bits()
        | FsOptions::ASYNC_DIO.bits()
        | FsOptions::ATOMIC_O_TRUNC.bits()
        | FsOptions::AUTO_INVAL_DATA.bits()
        | FsOptions::BIG_WRITES.bits()
        | FsOptions::DO_READDIRPLUS.bits()
        | FsOptions::HANDLE_KILLPRIV_V2.bits()
        | FsOptions::MAX_PAGES.bits()
        | FsOptions::PARALLEL_DIROPS.bits()
        | FsOptions::READDIRPLUS_AUTO.bits()
        | FsOptions::SUBMOUNTS.bits(),
);

/// FUSE 7.35: closing needs no request. Unknown to fuse-backend-rs.
const FOPEN_NOFLUSH: u32 = 1 << 5;

/// Removes the flags that a guest may not use.
pub(super) fn open_flags(flags: u32) -> u32 {
    flags & OPEN_FLAGS as u32
}

/// The flags of each read and write: those of the open file, as fcntl(2) reports them.
pub(super) fn io_flags(flags: u32) -> u32 {
    open_flags(flags) & !(libc::O_TRUNC | libc::O_EXCL) as u32
}

/// The guest's use of an open file or directory.
pub(super) fn opened(node: Node, flags: u32) -> OpenOptions {
    let mut options = OpenOptions::empty();
    if node.is_private() {
        options |= OpenOptions::KEEP_CACHE;
        if flags & libc::O_DIRECTORY as u32 != 0 {
            options |= OpenOptions::CACHE_DIR;
        }
    }
    if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
        // FLUSH reports failed writes, which do not occur in read-only files.
        let bits = options.bits() | FOPEN_NOFLUSH;
        // SAFETY: the value is a number for the guest; any bits are valid.
        options = unsafe { OpenOptions::from_bits_unchecked(bits) };
    }
    options
}
