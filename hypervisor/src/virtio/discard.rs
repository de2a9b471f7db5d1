//! Returns guest memory to the host.
//!
//! Returned memory costs the host memory again once it is accessed, even by a read. A guest may
//! always access it: it only gets back what it returned.

use std::io;
use std::ops::Range;

use nix::fcntl::{FallocateFlags, fallocate};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// The page size of x86-64.
const PAGE: u64 = 4096;

/// Returns the whole pages in `len` bytes from `start`. Skips parts outside guest memory.
pub(crate) fn discard(mem: &GuestMemoryMmap, start: GuestAddress, len: u64) -> io::Result<()> {
    let end = start.0.saturating_add(len);
    for region in mem.iter() {
        let first = region.start_addr().0;
        let from = start.0.saturating_sub(first);
        let to = end.saturating_sub(first).min(region.len());
        if from < to {
            discard_in(region, from..to)?;
        }
    }
    Ok(())
}

/// Returns a range of a region.
fn discard_in(region: &GuestRegionMmap, range: Range<u64>) -> io::Result<()> {
    match region.file_offset() {
        // Other processes that map the file also see the hole: a hypervisor, other devices.
        Some(file) if region.flags() & libc::MAP_SHARED != 0 => punch(file, range),
        // The pages of a private mapping belong to the mapping.
        _ => drop_pages(region, range),
    }
}

fn punch(file: &FileOffset, range: Range<u64>) -> io::Result<()> {
    let range = file.start() + range.start..file.start() + range.end;
    let Some((offset, len)) = whole_pages(range) else {
        return Ok(());
    };
    // With huge pages, the kernel frees those that are completely in the hole.
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let off_t = |value| libc::off_t::try_from(value).map_err(io::Error::other);
    fallocate(file.file(), flags, off_t(offset)?, off_t(len)?)?;
    Ok(())
}

fn drop_pages(region: &GuestRegionMmap, range: Range<u64>) -> io::Result<()> {
    let Some((offset, len)) = whole_pages(range) else {
        return Ok(());
    };
    // SAFETY: the range lies in the region, which stays mapped during the call. Guest
    // memory is never the target of a Rust reference, so it may change at any time.
    let result = unsafe {
        let address = region.as_ptr().add(offset as usize);
        libc::madvise(address.cast(), len as usize, libc::MADV_DONTNEED)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Start and length of the whole pages in a range.
fn whole_pages(range: Range<u64>) -> Option<(u64, u64)> {
    let start = range.start.checked_next_multiple_of(PAGE)?;
    let end = range.end - range.end % PAGE;
    (start < end).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{END, memory, resident, shared_memory};
    use vm_memory::{Bytes, GuestAddressSpace};

    const MIB: u64 = 1 << 20;

    #[test]
    fn holes_are_as_large_as_the_whole_pages() {
        let (mem, file) = shared_memory();
        let mem = mem.memory();
        let ones = vec![1; END as usize];
        mem.write_slice(&ones, GuestAddress(0)).unwrap();
        assert_eq!(resident(&file), END);

        discard(&mem, GuestAddress(MIB + 1), 3 * PAGE).unwrap();
        discard(&mem, GuestAddress(MIB), PAGE - 1).unwrap();
        discard(&mem, GuestAddress(2 * MIB), 0).unwrap();

        assert_eq!(resident(&file), END - 2 * PAGE);
        let mut bytes = vec![2; 5 * PAGE as usize];
        mem.read_slice(&mut bytes, GuestAddress(MIB)).unwrap();
        let expected = [1, 0, 0, 1, 1].map(|byte| [byte; PAGE as usize]);
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_range_may_reach_out_of_memory() {
        let (mem, file) = shared_memory();
        let mem = mem.memory();
        let ones = vec![1; END as usize];
        mem.write_slice(&ones, GuestAddress(0)).unwrap();

        for (start, len) in [(END, MIB), (u64::MAX, u64::MAX), (END + 1, u64::MAX)] {
            discard(&mem, GuestAddress(start), len).unwrap();
            assert_eq!(resident(&file), END);
        }
        discard(&mem, GuestAddress(END - MIB), u64::MAX).unwrap();
        assert_eq!(resident(&file), END - MIB);
        discard(&mem, GuestAddress(0), u64::MAX).unwrap();
        assert_eq!(resident(&file), 0);
    }

    #[test]
    fn regions_are_found_in_their_place_of_the_file() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4 * MIB).unwrap();
        let file = std::sync::Arc::new(file);
        let part = |start| Some(FileOffset::from_arc(file.clone(), start));
        let ranges = [
            (GuestAddress(0), MIB as usize, part(2 * MIB)),
            (GuestAddress(8 * MIB), MIB as usize, part(0)),
        ];
        let mem = GuestMemoryMmap::<()>::from_ranges_with_files(&ranges).unwrap();
        let ones = vec![1; MIB as usize];
        for start in [0, 8 * MIB] {
            mem.write_slice(&ones, GuestAddress(start)).unwrap();
        }

        discard(&mem, GuestAddress(MIB / 2), 8 * MIB).unwrap();

        assert_eq!(resident(&file), MIB);
        let byte = |address| mem.read_obj::<u8>(GuestAddress(address)).unwrap();
        let half = MIB / 2;
        assert_eq!([byte(half - 1), byte(half), byte(MIB - 1)], [1, 0, 0]);
        let start = 8 * MIB;
        assert_eq!([byte(start), byte(start + half - 1)], [0, 0]);
        assert_eq!(byte(start + half), 1);
    }

    #[test]
    fn memory_without_a_file_is_dropped() {
        let mem = memory();
        let mem = mem.memory();
        let ones = vec![1; 4 * PAGE as usize];
        mem.write_slice(&ones, GuestAddress(MIB)).unwrap();

        discard(&mem, GuestAddress(MIB + 1), 3 * PAGE - 1).unwrap();

        let mut bytes = vec![2; 4 * PAGE as usize];
        mem.read_slice(&mut bytes, GuestAddress(MIB)).unwrap();
        let expected = [1, 0, 0, 1].map(|byte| [byte; PAGE as usize]);
        assert_eq!(bytes, expected.concat());
    }
}
