//! A request of the driver (virtio 1.2 §5.2.6): parsing, checking and serving it.
//!
//! ```text
//!   device reads              device writes
//!  ┌──────────────┬─────────┬──────────────┬────────┐
//!  │ header of 16 │ data of │ data for     │ status │   divided into descriptors as the
//!  │              │ OUT     │ IN           │ of 1   │   driver chooses
//!  └──────────────┴─────────┴──────────────┴────────┘
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::super::buffers::{Buffers, LastByte, Span};
use super::disk::{Disk, SECTOR, Wait};
use super::{DISCARDS, MAX_DATA, RangeLimit, ZEROES};

/// Length of the header: type, reserved, sector.
const HEADER_LEN: usize = 16;
/// Length of the device's name for the driver.
pub(super) const ID_LEN: usize = 20;
/// Length of a range to discard or to fill with zeroes: sector, count, flags.
const RANGE_LEN: usize = 16;

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as isize,
    IoError = VIRTIO_BLK_S_IOERR as isize,
    Unsupported = VIRTIO_BLK_S_UNSUPP as isize,
}

/// The disk to serve, and its options.
pub(super) struct Target {
    pub disk: Disk,
    pub read_only: bool,
    pub id: [u8; ID_LEN],
    /// Whether an error was logged; a guest must not be able to fill the log with more.
    pub failed: AtomicBool,
}

/// A part of the disk, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct DiskRange {
    offset: u64,
    len: u64,
    unmap: bool,
}

enum Action<'m> {
    Read(Span<'m>, u64),
    Write(Span<'m>, u64),
    Flush,
    Id(Span<'m>),
    Discard([DiskRange; DISCARDS.count], usize),
    WriteZeroes([DiskRange; DISCARDS.count], usize),
}

/// A request with a byte for its status.
pub(super) struct BlockRequest<'m> {
    action: Result<Action<'m>, Status>,
    status: LastByte<'m>,
    /// The bytes that the device writes on success, without the status.
    answer: u32,
    /// The number of transferred bytes.
    pub size: usize,
}

impl<'m> BlockRequest<'m> {
    /// `None` if there is no buffer for the status.
    pub fn parse(target: &Target, buffers: Buffers<'m>) -> Option<BlockRequest<'m>> {
        let Buffers {
            readable,
            mut writable,
            faulty,
        } = buffers;
        let status = writable.split_last()?;
        // Chains are shorter than 2^32 bytes.
        let answer = writable.len() as u32;
        let size = writable.len().max(readable.len());
        let action = if faulty || size > MAX_DATA + HEADER_LEN {
            Err(Status::IoError)
        } else {
            action(target, readable, writable)
        };
        Some(BlockRequest {
            action,
            status,
            answer,
            size,
        })
    }

    /// Executes the request as far as possible. `None` if the rest has to wait for the storage
    /// but may not.
    pub fn serve(&mut self, target: &Target, durable: bool, wait: Wait) -> Option<Status> {
        let disk = &target.disk;
        let action = match &mut self.action {
            Ok(action) => action,
            Err(status) => return Some(*status),
        };
        let result = match action {
            Action::Read(data, offset) => disk.read(data, offset, wait),
            Action::Write(data, offset) => disk.write(data, offset, durable, wait),
            Action::Id(place) => {
                place.copy_from(&target.id);
                Ok(())
            }
            _ if wait == Wait::No => return None,
            Action::Flush => disk.flush(),
            Action::Discard(ranges, count) => ranges[..*count]
                .iter()
                .try_for_each(|range| disk.discard(range.offset, range.len)),
            Action::WriteZeroes(ranges, count) => ranges[..*count]
                .iter()
                .try_for_each(|range| disk.write_zeroes(range.offset, range.len, range.unmap))
                .and_then(|()| if durable { disk.flush() } else { Ok(()) }),
        };
        match result {
            Ok(()) => Some(Status::Ok),
            Err(err) if wait == Wait::No && err.kind() == io::ErrorKind::WouldBlock => None,
            Err(err) => {
                if !target.failed.swap(true, Ordering::Relaxed) {
                    log::warn!("A disk request failed: {err}; there may be more");
                }
                Some(Status::IoError)
            }
        }
    }

    /// Writes the status; returns the number of bytes that the device has written.
    pub fn finish(self, status: Status) -> u32 {
        self.status.set(status as u8);
        match status {
            Status::Ok => self.answer + 1,
            _ => 1,
        }
    }
}

fn action<'m>(
    target: &Target,
    mut readable: Span<'m>,
    writable: Span<'m>,
) -> Result<Action<'m>, Status> {
    let mut header = [0; HEADER_LEN];
    if readable.copy_to(&mut header) < HEADER_LEN {
        return Err(Status::IoError);
    }
    readable.advance(HEADER_LEN);
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let mut sector = [0; 8];
    sector.copy_from_slice(&header[8..]);
    let sector = u64::from_le_bytes(sector);

    // A request has data in its own direction only.
    let only = |what: usize, other: &Span<'_>| match other.len() {
        0 => Ok(what),
        _ => Err(Status::IoError),
    };
    match kind {
        VIRTIO_BLK_T_IN => {
            let offset = place(target, sector, only(writable.len(), &readable)? as u64)?;
            Ok(Action::Read(writable, offset))
        }
        VIRTIO_BLK_T_OUT if target.read_only => Err(Status::IoError),
        VIRTIO_BLK_T_OUT => {
            let offset = place(target, sector, only(readable.len(), &writable)? as u64)?;
            Ok(Action::Write(readable, offset))
        }
        VIRTIO_BLK_T_FLUSH => Ok(Action::Flush),
        VIRTIO_BLK_T_GET_ID => match only(writable.len(), &readable)? {
            ID_LEN => Ok(Action::Id(writable)),
            _ => Err(Status::IoError),
        },
        // Not offered for a read-only disk.
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if target.read_only => {
            Err(Status::Unsupported)
        }
        VIRTIO_BLK_T_DISCARD => {
            only(0, &writable)?;
            let (ranges, count) = ranges(target, readable, DISCARDS, 0)?;
            Ok(Action::Discard(ranges, count))
        }
        VIRTIO_BLK_T_WRITE_ZEROES => {
            only(0, &writable)?;
            let known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            let (ranges, count) = ranges(target, readable, ZEROES, known)?;
            Ok(Action::WriteZeroes(ranges, count))
        }
        _ => Err(Status::Unsupported),
    }
}

/// The position of `len` bytes from `sector`, if they are on the disk.
fn place(target: &Target, sector: u64, len: u64) -> Result<u64, Status> {
    let end = sector.checked_add(len / SECTOR);
    match end {
        Some(end) if len.is_multiple_of(SECTOR) && end <= target.disk.sectors => {
            Ok(sector * SECTOR)
        }
        _ => Err(Status::IoError),
    }
}

/// The ranges of a discard or of zeroes; `known` are the allowed flags.
fn ranges(
    target: &Target,
    mut data: Span<'_>,
    limit: RangeLimit,
    known: u32,
) -> Result<([DiskRange; DISCARDS.count], usize), Status> {
    let mut ranges = [DiskRange::default(); DISCARDS.count];
    let count = data.len() / RANGE_LEN;
    if count == 0 || count > limit.count || !data.len().is_multiple_of(RANGE_LEN) {
        return Err(Status::IoError);
    }
    for range in &mut ranges[..count] {
        let mut bytes = [0; RANGE_LEN];
        data.copy_to(&mut bytes);
        data.advance(RANGE_LEN);
        let bits = u128::from_le_bytes(bytes);
        let (sector, sectors, flags) = (bits as u64, (bits >> 64) as u32, (bits >> 96) as u32);
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        if sectors == 0 || sectors > limit.sectors {
            return Err(Status::IoError);
        }
        let len = u64::from(sectors) * SECTOR;
        *range = DiskRange {
            offset: place(target, sector, len)?,
            len,
            unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
        };
    }
    Ok((ranges, count))
}
