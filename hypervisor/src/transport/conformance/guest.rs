//! Guest memory: two regions of a memfd with a hole between them, and the addresses of their
//! contents.

use std::fs::File;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use crate::virtio::Memory;

/// Start, length and file offset of each region.
pub const REGIONS: [(u64, u64, u64); 2] = [(0, 8 << 20, 0), (12 << 20, 4 << 20, 8 << 20)];
/// The start of the hole.
pub const HOLE: u64 = 8 << 20;
/// The end of memory.
pub const END: u64 = 16 << 20;

/// Rings take the first megabytes, see [`Rings`](crate::virtio::testing::Rings).
/// Indirect tables follow.
pub const TABLES: u64 = 3 << 20;
/// Buffers of requests.
pub const BUFFERS: u64 = 4 << 20;
/// Memory for the device's own requests only.
pub const POOL: u64 = 14 << 20;

/// See the module.
pub struct Guest {
    pub file: Arc<File>,
    pub mem: Memory,
}

impl Guest {
    pub fn new() -> Guest {
        let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        let file = Arc::new(file);
        file.set_len(REGIONS.iter().map(|(_, len, _)| len).sum())
            .unwrap();
        let ranges = REGIONS.map(|(start, len, offset)| {
            let place = FileOffset::from_arc(Arc::clone(&file), offset);
            (GuestAddress(start), len as usize, Some(place))
        });
        let mem = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        Guest {
            file,
            mem: Memory::new(mem),
        }
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        let mem = self.mem.memory();
        mem.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mem = self.mem.memory();
        mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
