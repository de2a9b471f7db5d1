//! A scripted driver: guest memory, rings in it, which it can fill against the rules.

use std::fs::File;
use std::ops::{Deref, DerefMut};

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::{Interrupt, Memory};
use crate::event::EventFd;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

/// Guest memory ends here.
pub const END: u64 = 16 << 20;
/// Entries of each ring.
pub const SIZE: u16 = 64;

pub fn memory() -> Memory {
    let ranges = [(GuestAddress(0), END as usize)];
    Memory::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

/// Memory on a file, which is given as well.
pub fn shared_memory() -> (Memory, Arc<File>) {
    let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(END).unwrap();
    let file = Arc::new(file);
    let ranges = [(
        GuestAddress(0),
        END as usize,
        Some(FileOffset::from_arc(file.clone(), 0)),
    )];
    let mem = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
    (Memory::new(mem), file)
}

/// The bytes of memory that a file takes.
pub fn resident(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

/// Counts interrupts and lets a test wait for one.
pub struct Calls {
    pub count: AtomicUsize,
    pub failures: AtomicUsize,
    event: EventFd,
}

impl Interrupt for Calls {
    fn signal(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.event.write(1).unwrap();
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

/// The driver's side of a queue, as far as it lies in memory: the `slot`-th 64 KiB.
pub struct Rings {
    mem: Memory,
    base: u64,
    size: u16,
    avail: u16,
    used: u16,
}

impl Rings {
    /// Rings of `size` entries, at their beginning.
    pub fn new(mem: &Memory, slot: u64, size: u16) -> Rings {
        Rings {
            mem: mem.clone(),
            base: slot << 16,
            size,
            avail: 0,
            used: 0,
        }
    }

    /// Empties them.
    pub fn clear(&mut self) {
        self.write(self.base, &[0; 0x10000]);
        self.avail = 0;
        self.used = 0;
    }

    /// Has the first chain be the `index`-th.
    pub fn begin_at(&mut self, index: u16) {
        self.avail = index;
        self.used = index;
        self.set_avail_index(index);
        self.write(self.used_ring() + 2, &index.to_le_bytes());
    }

    fn memory(&self) -> vm_memory::GuestMemoryLoadGuard<GuestMemoryMmap> {
        vm_memory::GuestAddressSpace::memory(&self.mem)
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Address of the descriptor table.
    pub fn table(&self) -> u64 {
        self.base
    }

    /// Address of the available ring.
    pub fn avail_ring(&self) -> u64 {
        self.base + 0x4000
    }

    /// Address of the used ring.
    pub fn used_ring(&self) -> u64 {
        self.base + 0x8000
    }

    /// The queue as a transport would hand it to the device.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.base))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.avail_ring()))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used_ring()))
            .unwrap();
        queue.set_ready(true);
        queue
    }

    /// Writes entry `index` of a descriptor table at `table`.
    pub fn descriptor_at(&self, table: u64, index: u16, desc: Desc) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.2.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.3.to_le_bytes());
        self.write(table + u64::from(index) * 16, &bytes);
    }

    /// Writes a descriptor: address, length, flags, next.
    pub fn descriptor(&self, index: u16, desc: Desc) {
        self.descriptor_at(self.base, index, desc);
    }

    /// Offers the chain at `head`.
    pub fn offer(&mut self, head: u16) {
        let entry = self.avail_ring() + 4 + u64::from(self.avail % self.size) * 2;
        self.memory().write_obj(head, GuestAddress(entry)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(self.avail);
    }

    /// Sets the available index, right or wrong.
    pub fn set_avail_index(&self, index: u16) {
        let at = GuestAddress(self.avail_ring() + 2);
        self.memory().store(index, at, Ordering::Release).unwrap();
    }

    /// The available index of the chains offered.
    pub fn avail_index(&self) -> u16 {
        self.avail
    }

    /// The used index in memory.
    pub fn used_index(&self) -> u16 {
        let at = GuestAddress(self.used_ring() + 2);
        self.memory().load(at, Ordering::Acquire).unwrap()
    }

    /// Chains that have not come back.
    pub fn outstanding(&self) -> u16 {
        self.avail.wrapping_sub(self.used_index())
    }

    /// Takes back a chain: its head and the length written.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.used {
            return None;
        }
        let mem = self.memory();
        let entry = self.used_ring() + 4 + u64::from(self.used % self.size) * 8;
        let head = mem.read_obj(GuestAddress(entry)).unwrap();
        let len = mem.read_obj(GuestAddress(entry + 4)).unwrap();
        self.used = self.used.wrapping_add(1);
        Some((head, len))
    }

    /// Forgets the chains that came back.
    pub fn skip_used(&mut self) {
        self.used = self.used_index();
    }

    /// Sets the flags of the available ring (virtio 1.2 §2.7.7).
    pub fn set_avail_flags(&self, flags: u16) {
        let at = GuestAddress(self.avail_ring());
        self.memory().store(flags, at, Ordering::SeqCst).unwrap();
    }

    /// With event indices, asks for an interrupt when `more` chains have come back after
    /// the next.
    pub fn interrupt_after(&self, more: u16) {
        let at = self.avail_ring() + 4 + u64::from(self.size) * 2;
        let event = self.used.wrapping_add(more);
        let mem = self.memory();
        mem.store(event, GuestAddress(at), Ordering::SeqCst)
            .unwrap();
        // The used index is read next.
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Whether the device asked for a kick for the chain offered last (§2.7.10).
    pub fn wants_kick(&self, event_idx: bool) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        let mem = self.memory();
        if event_idx {
            let at = self.used_ring() + 4 + u64::from(self.size) * 8;
            let event: u16 = mem.load(GuestAddress(at), Ordering::SeqCst).unwrap();
            event == self.avail.wrapping_sub(1)
        } else {
            let at = GuestAddress(self.used_ring());
            let flags: u16 = mem.load(at, Ordering::SeqCst).unwrap();
            flags & 1 == 0
        }
    }

    /// Writes to guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let address = GuestAddress(address);
        self.memory().write_slice(bytes, address).unwrap();
    }

    /// Reads from guest memory.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let address = GuestAddress(address);
        self.memory().read_slice(&mut bytes, address).unwrap();
        bytes
    }
}

/// Rings with a kick and an interrupt, for a device without a transport.
pub struct DriverQueue {
    rings: Rings,
    kick: EventFd,
    pub calls: Arc<Calls>,
}

impl Deref for DriverQueue {
    type Target = Rings;

    fn deref(&self) -> &Rings {
        &self.rings
    }
}

impl DerefMut for DriverQueue {
    fn deref_mut(&mut self) -> &mut Rings {
        &mut self.rings
    }
}

impl DriverQueue {
    pub fn new(mem: &Memory, slot: u64) -> DriverQueue {
        DriverQueue {
            rings: Rings::new(mem, slot, SIZE),
            kick: EventFd::new().unwrap(),
            calls: Arc::new(Calls {
                count: AtomicUsize::new(0),
                failures: AtomicUsize::new(0),
                event: EventFd::new().unwrap(),
            }),
        }
    }

    /// A kick event that the device can own.
    pub fn kick_event(&self) -> EventFd {
        self.kick.try_clone().unwrap()
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Waits until a chain comes back.
    pub fn wait_used(&mut self) -> (u32, u32) {
        loop {
            if let Some(used) = self.used() {
                return used;
            }
            let fd = PollFd::new(self.calls.event.as_fd(), PollFlags::POLLIN);
            let ready = poll(&mut [fd], PollTimeout::from(10_000u16)).unwrap();
            assert!(ready > 0, "the device returned nothing");
            self.calls.event.read().unwrap();
        }
    }
}
