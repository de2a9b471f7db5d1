//! Files with holes (GNU tar, "PAX Format, Version 1.0"): the content begins with
//! a map of the parts that are there, in decimal lines, padded to a block.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Archives consist of blocks (pax(1), "ustar Interchange Format").
const BLOCK: usize = 512;

/// Parts of a file that are there: offsets and lengths, ascending.
pub(super) type Parts = Vec<(u64, u64)>;

/// A file in more parts is written as if it had no holes: their map would be kept
/// in memory.
const MAX_PARTS: usize = 1 << 16;

/// The parts of a file of `size` bytes. `None` if it has no holes worth it, or its
/// file system does not tell.
pub(super) fn parts(file: &File, size: u64) -> io::Result<Option<Parts>> {
    let mut parts = Parts::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        parts.push((start, end - start));
        if parts.len() > MAX_PARTS {
            return Ok(None);
        }
        at = end;
    }
    if parts == [(0, size)] || size == 0 {
        return Ok(None);
    }
    // A hole at the end ends with a part of nothing.
    if parts.last().is_none_or(|(start, len)| start + len < size) {
        parts.push((size, 0));
    }
    Ok(Some(parts))
}

/// What the content begins with.
pub(super) fn map(parts: &Parts) -> Vec<u8> {
    let mut map = format!("{}\n", parts.len()).into_bytes();
    for (offset, len) in parts {
        map.extend(format!("{offset}\n{len}\n").bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}
