//! Files with holes (GNU tar, "PAX Format, Version 1.0"): the content begins with a map of the
//! parts that hold data, in decimal lines, padded to a block.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Archives consist of blocks (pax(1), "ustar Interchange Format").
const BLOCK: usize = 512;

/// The prefix of the keys in their records.
pub(in crate::engine) const RECORD: &str = "GNU.sparse.";

/// The parts of a file that hold data: offsets and lengths, ascending.
pub(in crate::engine) type Parts = Vec<(u64, u64)>;

/// The largest number of parts: their map is kept in memory, 16 bytes each. A file with more is
/// refused. Filling its holes instead could fill the disk, since a guest can make holes of any
/// size.
const MAX_PARTS: usize = 1 << 20;

/// The parts of a file of `size` bytes. `None` if it has no holes, or if its file system does
/// not report them.
pub(super) fn parts(file: &File, size: u64) -> io::Result<Option<Parts>> {
    let mut parts = Parts::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            // The file was truncated meanwhile.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        if start >= end {
            break;
        }
        if parts.len() >= MAX_PARTS {
            return Err(too_many());
        }
        parts.push((start, end - start));
        at = end;
    }
    if parts == [(0, size)] || size == 0 {
        return Ok(None);
    }
    // A hole at the end is marked by an empty part.
    if parts.last().is_none_or(|(start, len)| start + len < size) {
        parts.push((size, 0));
    }
    Ok(Some(parts))
}

/// The map at the beginning of the content.
pub(super) fn map(parts: &Parts) -> Vec<u8> {
    let mut map = format!("{}\n", parts.len()).into_bytes();
    for (offset, len) in parts {
        map.extend(format!("{offset}\n{len}\n").bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads the map at the beginning of the content of a file of `size` bytes.
///
/// # Errors
/// `InvalidData` if it is not a map of such a file.
pub(in crate::engine) fn read_map(content: &mut impl Read, size: u64) -> io::Result<Parts> {
    let mut lines = Lines {
        content,
        block: [0; BLOCK],
        at: BLOCK,
    };
    // The last part may be empty.
    let count = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
    if count > MAX_PARTS + 1 {
        return Err(too_many());
    }
    let mut parts = Parts::new();
    let mut end = 0;
    for _ in 0..count {
        let (start, len) = (lines.number()?, lines.number()?);
        let next = start.checked_add(len).filter(|next| *next <= size);
        match next {
            Some(next) if start >= end => end = next,
            _ => return Err(bad("the parts of a sparse file are out of order")),
        }
        parts.push((start, len));
    }
    Ok(parts)
}

/// The lines of a map, read in whole blocks.
struct Lines<'a, R> {
    content: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut number: u64 = 0;
        let mut digits = 0;
        loop {
            if self.at == BLOCK {
                self.content.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'0'..=b'9' => {
                    let more = number.checked_mul(10);
                    let more = more.and_then(|more| more.checked_add(u64::from(byte - b'0')));
                    number = more.ok_or_else(|| bad("a number of a sparse file is too large"))?;
                    digits += 1;
                }
                b'\n' if digits > 0 => return Ok(number),
                _ => return Err(bad("the map of a sparse file is damaged")),
            }
            if digits > 20 {
                return Err(bad("a number of a sparse file is too large"));
            }
        }
    }
}

fn too_many() -> io::Error {
    bad("it is in more than 1048576 parts with holes between them")
}

fn bad(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_they_were_written() {
        for parts in [
            vec![],
            vec![(0, 1)],
            vec![(4096, 4096), (1 << 62, 0)],
            (0..1000).map(|n| (n * 8192, 4096)).collect(),
        ] {
            let bytes = map(&parts);
            let mut content = &bytes[..];
            assert_eq!(read_map(&mut content, 1 << 62).unwrap(), parts);
            assert!(content.is_empty());
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for text in [
            "",
            "\n",
            "x\n",
            "1\n5\n",
            "1\n5\n6\n",
            "2\n4\n4\n0\n1\n",
            "1\n18446744073709551615\n2\n",
            "1\n99999999999999999999999\n2\n",
            "1\n000000000000000000000000001\n2\n",
            "9999999\n",
        ] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(BLOCK, 0);
            assert!(read_map(&mut &bytes[..], 10).is_err(), "{text:?}");
        }
    }
}
