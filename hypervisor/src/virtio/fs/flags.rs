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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, with the numbers of x86-64 (asm-generic/fcntl.h).
    #[test]
    fn a_guest_opens_with_flags_that_concern_the_file_alone() {
        for bit in 0..32 {
            let flag = 1 << bit;
            let (open, io) = match flag {
                // ACCMODE; APPEND, NONBLOCK, DSYNC, DIRECT, DIRECTORY, NOFOLLOW, NOATIME,
                // __O_SYNC. A host of 64 bits has no LARGEFILE.
                0o1 | 0o2 => (true, true),
                0o2000 | 0o4000 | 0o10_000 | 0o40_000 => (true, true),
                0o200_000 | 0o400_000 | 0o1_000_000 | 0o4_000_000 => (true, true),
                // EXCL, TRUNC
                0o200 | 0o1000 => (true, false),
                // Above all CREAT, NOCTTY, FASYNC, CLOEXEC, PATH and TMPFILE.
                _ => (false, false),
            };
            assert_eq!(open_flags(flag) == flag, open, "{flag:#o}");
            assert_eq!(io_flags(flag) == flag, io, "{flag:#o}");
            assert_eq!(open_flags(flag) & !flag, 0);
        }
    }

    /// FUSE_INIT flags (linux/fuse.h), of which these and no others.
    #[test]
    fn options_offered_are_these() {
        let offered: [u64; 11] = [
            1 << 0,  // ASYNC_READ
            1 << 3,  // ATOMIC_O_TRUNC
            1 << 5,  // BIG_WRITES
            1 << 12, // AUTO_INVAL_DATA
            1 << 13, // DO_READDIRPLUS
            1 << 14, // READDIRPLUS_AUTO
            1 << 15, // ASYNC_DIO
            1 << 18, // PARALLEL_DIROPS
            1 << 22, // MAX_PAGES
            1 << 27, // SUBMOUNTS
            1 << 28, // HANDLE_KILLPRIV_V2
        ];
        assert_eq!(OPTIONS.bits(), offered.iter().sum::<u64>());
    }
}
