//! A guest's memory and driver; the fuzzer decides every step.

use std::fs::File;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_queue::{Queue, QueueT};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryLoadGuard, GuestMemoryMmap,
};

use super::Script;
use crate::event::EventFd;
use crate::virtio::{Interrupt, Memory, Ring};

/// Guest memory: two regions with a gap between them.
const REGIONS: [(u64, usize); 2] = [(0, LOW), (HIGH_START, HIGH)];
const LOW: usize = 0x10000;
const HIGH_START: u64 = 0x10_0000;
const HIGH: usize = 0x8000;
/// The rings of each queue have a page of their own; buffers follow.
const PAGE: u64 = 0x1000;
const BUFFERS: u64 = 0x8000;
/// Entries of a queue: few, so that it wraps around often.
const SIZE: u16 = 16;

/// virtio 1.2 §2.7.5.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// An interrupt that nothing waits for.
pub(crate) struct NoInterrupt;

impl Interrupt for NoInterrupt {
    fn signal(&self) {}
    fn failed(&self) {}
}

/// A driver; see the module.
pub(crate) struct Driver {
    pub mem: Memory,
    rings: Vec<Option<Ring>>,
    avail: Vec<u16>,
    used: Vec<u16>,
    kick: EventFd,
    event_idx: bool,
}

impl Driver {
    /// A driver of a device with this many queues.
    pub fn new(queues: usize) -> Driver {
        let total = (LOW + HIGH) as u64;
        let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(total).unwrap();
        let file = Arc::new(file);
        let mut offset = 0;
        let regions = REGIONS.map(|(start, len)| {
            let place = FileOffset::from_arc(Arc::clone(&file), offset);
            offset += len as u64;
            (GuestAddress(start), len, Some(place))
        });
        let mem = GuestMemoryMmap::from_ranges_with_files(regions).unwrap();
        let mut driver = Driver {
            mem: Memory::new(mem),
            rings: Vec::new(),
            avail: vec![0; queues],
            used: vec![0; queues],
            kick: EventFd::new().unwrap(),
            event_idx: false,
        };
        driver.reset(queues, false);
        driver
    }

    /// Resets it: memory is zero, queues are at their start.
    pub fn reset(&mut self, queues: usize, event_idx: bool) {
        self.event_idx = event_idx;
        let mem = self.memory();
        for (start, len) in REGIONS {
            mem.write_slice(&vec![0; len], GuestAddress(start)).unwrap();
        }
        self.avail.fill(0);
        self.used.fill(0);
        self.rings = (0..queues).map(|index| self.start(index, None)).collect();
    }

    pub fn memory(&self) -> GuestMemoryLoadGuard<GuestMemoryMmap> {
        self.mem.memory()
    }

    pub fn ring(&mut self, index: usize) -> &mut Option<Ring> {
        &mut self.rings[index]
    }

    fn start(&self, index: usize, queue: Option<Queue>) -> Option<Ring> {
        let queue = queue.unwrap_or_else(|| self.queue(index));
        let kick = self.kick.try_clone().unwrap();
        Ring::new(index, queue, self.mem.clone(), kick, Arc::new(NoInterrupt)).ok()
    }

    /// The queue, as a transport passes it.
    pub fn queue(&self, index: usize) -> Queue {
        let base = index as u64 * PAGE;
        let mut queue = Queue::new(SIZE).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(base))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(base + 0x400))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(base + 0x800))
            .unwrap();
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        queue
    }

    /// The driver's next step. `Some` is a queue to serve.
    pub fn step(&mut self, script: &mut Script<'_>) -> Option<usize> {
        let what = script.byte();
        let index = usize::from(what >> 4) % self.rings.len();
        match what & 0xf {
            0..4 => self.chain(index, script),
            4 | 5 => self.data(script),
            6 => {
                let table = index as u64 * PAGE;
                self.descriptor(table, script);
            }
            7 => {
                let table = address(script);
                self.descriptor(table, script);
            }
            8 => self.offer(index, script.byte().into()),
            9 => self.set_avail(index, script.word()),
            10 => {
                let queue = self.rings[index].take().map(Ring::into_queue);
                self.rings[index] = self.start(index, queue);
            }
            11 => self.store(index as u64 * PAGE + 0x400, &script.word().to_le_bytes()),
            _ => return Some(index),
        }
        None
    }

    /// Offers a chain as a driver does: first the readable buffers, then the writable ones.
    fn chain(&mut self, index: usize, script: &mut Script<'_>) {
        let shape = script.byte();
        let head = u16::from(shape & 0xf);
        let (reads, writes) = (shape >> 4 & 3, shape >> 6);
        let count = u16::from(reads + writes);
        for number in 0..count {
            let write = number >= reads.into();
            let next = if number + 1 < count { NEXT } else { 0 };
            let flags = next | if write { WRITE } else { 0 };
            let at = (head + number) % SIZE;
            let (address, len) = (address(script), script.number());
            let table = index as u64 * PAGE;
            self.put(table, at, (address, len, flags, (at + 1) % SIZE));
        }
        self.offer(index, head);
    }

    /// One descriptor of any kind.
    fn descriptor(&mut self, table: u64, script: &mut Script<'_>) {
        let at = u16::from(script.byte()) % (SIZE + 2);
        let (address, len) = (address(script), script.number());
        let flags = u16::from(script.byte());
        let next = u16::from(script.byte()) % (SIZE + 2);
        self.put(table, at, (address, len, flags, next));
    }

    /// Writes a descriptor: address, length, flags, next.
    pub fn put(&mut self, table: u64, at: u16, desc: (u64, u32, u16, u16)) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.2.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.3.to_le_bytes());
        self.store(table.wrapping_add(u64::from(at) * 16), &bytes);
    }

    /// Writes bytes at an arbitrary place.
    fn data(&mut self, script: &mut Script<'_>) {
        let (address, count) = (address(script), script.byte());
        self.store(address, script.bytes(count.into()));
    }

    /// Offers the chain at `head`.
    pub fn offer(&mut self, index: usize, head: u16) {
        let base = index as u64 * PAGE + 0x400;
        let entry = base + 4 + u64::from(self.avail[index] % SIZE) * 2;
        self.store(entry, &head.to_le_bytes());
        self.set_avail(index, self.avail[index].wrapping_add(1));
    }

    fn set_avail(&mut self, index: usize, avail: u16) {
        self.avail[index] = avail;
        self.store(index as u64 * PAGE + 0x402, &avail.to_le_bytes());
    }

    /// Takes a used chain: its head and the written length.
    pub fn used(&mut self, index: usize) -> Option<(u32, u32)> {
        let base = index as u64 * PAGE + 0x800;
        let mem = self.memory();
        let at = |offset| GuestAddress(base + offset);
        if mem.read_obj::<u16>(at(2)).ok()? == self.used[index] {
            return None;
        }
        let entry = 4 + u64::from(self.used[index] % SIZE) * 8;
        self.used[index] = self.used[index].wrapping_add(1);
        Some((
            mem.read_obj(at(entry)).ok()?,
            mem.read_obj(at(entry + 4)).ok()?,
        ))
    }

    /// Writes to guest memory, if the address has memory.
    pub fn store(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory().write(bytes, GuestAddress(address));
    }
}

/// An address, mostly one with memory.
pub(crate) fn address(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        page @ 0..128 => BUFFERS + u64::from(page) * 0x100,
        128..160 => BUFFERS + u64::from(script.word()),
        page @ 160..192 => HIGH_START + u64::from(page - 160) * 0x400,
        before @ 192..208 => LOW as u64 - u64::from(before - 192),
        before @ 208..216 => HIGH_START + HIGH as u64 - u64::from(before - 208),
        before @ 216..224 => u64::MAX - u64::from(before - 216),
        224..240 => script.word().into(),
        _ => script.quad(),
    }
}
