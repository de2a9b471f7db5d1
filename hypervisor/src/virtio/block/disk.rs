//! The file behind a disk: its properties and its I/O.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use super::super::buffers::Span;
use super::BlockError;

/// The unit of all positions (virtio 1.2 §5.2.4), independent of the block size.
pub(super) const SECTOR: u64 = 512;

mod ioctl {
    // linux/fs.h
    nix::ioctl_read!(size, 0x12, 114, u64);
    nix::ioctl_read_bad!(
        logical_block,
        nix::request_code_none!(0x12, 104),
        libc::c_int
    );
    nix::ioctl_read_bad!(
        physical_block,
        nix::request_code_none!(0x12, 123),
        libc::c_uint
    );
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

/// Whether a call may wait for the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The call may wait.
    Yes,
    /// The call fails with `WouldBlock` instead.
    No,
}

/// An open disk image or block device.
pub(super) struct Disk {
    file: File,
    device: bool,
    /// Size in [sectors](SECTOR).
    pub sectors: u64,
    /// The smallest block that can be read or written.
    pub logical: u32,
    /// The smallest block that can be written without a read of its surroundings.
    pub physical: u32,
    /// Whether `RWF_NOWAIT` is supported for reads and for writes. Few file systems support it
    /// for buffered writes.
    nowait: [AtomicBool; 2],
}

impl Disk {
    /// Checks an open file, whose access mode must be exactly that of the disk.
    pub fn new(file: File, read_only: bool) -> Result<Disk, BlockError> {
        let io = |what| move |source| BlockError::Io { what, source };
        let errno = |what| move |errno: nix::Error| io(what)(errno.into());
        let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(errno("read the file's flags"))?;
        let flags = OFlag::from_bits_retain(flags);
        let wanted = if read_only {
            OFlag::O_RDONLY
        } else {
            OFlag::O_RDWR
        };
        if flags & OFlag::O_ACCMODE != wanted {
            return Err(BlockError::Access { read_only });
        }
        // With O_APPEND, positions are ignored; O_DIRECT requires alignments that a guest does
        // not have; O_PATH does not allow reads.
        let unfit = OFlag::O_APPEND | OFlag::O_DIRECT | OFlag::O_PATH;
        if flags.intersects(unfit) {
            return Err(BlockError::Flags((flags & unfit).bits()));
        }

        let meta = file.metadata().map_err(io("look at the file"))?;
        let kind = meta.file_type();
        let (mut size, mut logical) = (meta.len(), SECTOR as libc::c_int);
        let mut physical = u32::try_from(meta.blksize()).unwrap_or(0);
        if kind.is_block_device() {
            let fd = file.as_raw_fd();
            // SAFETY: each call writes one value of the given type, through a valid reference.
            unsafe {
                ioctl::size(fd, &mut size).map_err(errno("read the device's size"))?;
                ioctl::logical_block(fd, &mut logical)
                    .and(ioctl::physical_block(fd, &mut physical))
                    .map_err(errno("read the device's block size"))?;
            }
        } else if !kind.is_file() {
            return Err(BlockError::Kind);
        }
        let logical = logical.unsigned_abs().max(SECTOR as u32);
        if !size.is_multiple_of(u64::from(logical)) {
            return Err(BlockError::Size { size, logical });
        }
        Ok(Disk {
            file,
            device: kind.is_block_device(),
            sectors: size / SECTOR,
            logical,
            physical: physical.min(1 << 16).max(logical),
            nowait: [AtomicBool::new(true), AtomicBool::new(true)],
        })
    }

    /// Fills `data`, which shrinks during the read.
    pub fn read(&self, data: &mut Span<'_>, offset: &mut u64, wait: Wait) -> io::Result<()> {
        self.transfer(data, offset, 0, &self.nowait[0], wait, libc::preadv2)
    }

    /// Writes all of `data`, which shrinks during the write; to the storage itself if
    /// `durable`.
    pub fn write(
        &self,
        data: &mut Span<'_>,
        offset: &mut u64,
        durable: bool,
        wait: Wait,
    ) -> io::Result<()> {
        if durable && wait == Wait::No {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        self.transfer(data, offset, flags, &self.nowait[1], wait, libc::pwritev2)
    }

    fn transfer(
        &self,
        data: &mut Span<'_>,
        offset: &mut u64,
        mut flags: libc::c_int,
        nowait: &AtomicBool,
        wait: Wait,
        call: unsafe extern "C" fn(
            libc::c_int,
            *const libc::iovec,
            libc::c_int,
            libc::off_t,
            libc::c_int,
        ) -> libc::ssize_t,
    ) -> io::Result<()> {
        if wait == Wait::No {
            if !nowait.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            flags |= libc::RWF_NOWAIT;
        }
        while data.len() > 0 {
            let at = libc::off_t::try_from(*offset).map_err(io::Error::other)?;
            let iovecs = data.iovecs();
            // SAFETY: the vectors point into guest memory that `data` borrows, so it stays
            // mapped during the call, which uses no other memory. The kernel tolerates
            // concurrent accesses by the guest. The number of vectors is at most MAX_PIECES, so
            // it fits.
            let count = unsafe {
                call(
                    self.file.as_raw_fd(),
                    iovecs.as_ptr(),
                    iovecs.len() as libc::c_int,
                    at,
                    flags,
                )
            };
            match usize::try_from(count) {
                // The file has become shorter.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    data.advance(count);
                    *offset += count as u64;
                }
                Err(_) => match io::Error::last_os_error() {
                    err if err.kind() == io::ErrorKind::Interrupted => {}
                    err if wait == Wait::No && is_unsupported(&err) => {
                        nowait.store(false, Ordering::Relaxed);
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    err => return Err(err),
                },
            }
        }
        Ok(())
    }

    /// Writes all cached data to the storage.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Returns bytes to the storage. A storage without support keeps them, since the request is
    /// only a hint.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = if self.device {
            // SAFETY: reads two numbers through a valid reference.
            unsafe { ioctl::discard(self.file.as_raw_fd(), &[offset, len]) }
                .map(|_| ())
                .map_err(io::Error::from)
        } else {
            self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len)
        };
        match result {
            Err(err) if is_unsupported(&err) => Ok(()),
            result => result,
        }
    }

    /// Zeroes bytes; with `unmap` the storage may free them.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        let ways: &[_] = if unmap { &[punch, zero] } else { &[zero] };
        for way in ways {
            match self.allocate(*way, offset, len) {
                Err(err) if is_unsupported(&err) => {}
                result => return result,
            }
        }
        self.fill(offset, len)
    }

    fn allocate(&self, way: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let range = |value| libc::off_t::try_from(value).map_err(io::Error::other);
        let mode = way | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, mode, range(offset)?, range(len)?)?)
    }

    /// Writes zeroes, on storage without a faster method.
    fn fill(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        while len > 0 {
            let count = len.min(ZEROES.len() as u64);
            std::os::unix::fs::FileExt::write_all_at(
                &self.file,
                &ZEROES[..count as usize],
                offset,
            )?;
            offset += count;
            len -= count;
        }
        Ok(())
    }
}

/// Whether the storage cannot do at all what it was asked for: fallocate(2) and preadv2(2) fail
/// with ENOSYS and EOPNOTSUPP, ioctl(2) with ENOTTY.
pub(super) fn is_unsupported(err: &io::Error) -> bool {
    matches!(
        err.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY)
    )
}
