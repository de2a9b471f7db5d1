//! The memory device (virtio 1.2 §5.15): memory that grows and shrinks while the guest runs.
//!
//! ```text
//!   the VMM ── MemControl::resize ──▶ requested_size ── config interrupt ──▶ guest
//!           ◀─ MemControl::wait ───── plugged_size ◀── PLUG, UNPLUG ──────── guest
//!                                                  └──▶ discard: back to the host
//! ```
//!
//! The whole region is part of guest memory from the start, without pages: plugging a block
//! only changes the device's records, and unplugging it also discards its memory. The guest's
//! kernel chooses the blocks; Linux adds memory in pieces of 128 MiB, so the region should
//! start at a multiple of that.
//!
//! A guest that breaks the rules and accesses unplugged blocks gets memory: up to the whole
//! region, whatever size was requested. The pod's cgroup counts it as it counts all memory of
//! the guest, and is the reliable limit; the region is a second one. The data there is lost
//! with the next unplug of the block, and no other VM has this memory. Removing such blocks
//! from the memory map would require a change of the map for each request, and would not limit
//! more than the cgroup does.
//!
//! A feature asks guests not to read unplugged blocks (`UNPLUGGED_INACCESSIBLE`), since a read
//! of a hole in a memfd uses a page; a guest without this feature (Linux before 5.17) works,
//! too. `ACPI_PXM` is not offered: there is one NUMA node.

mod blocks;
mod requests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use virtio_queue::Queue;

use super::config::read_bytes;
use super::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, QueueSlots, RING_FEATURES, SerialQueue,
};
use crate::event::EventFd;
use crate::sync::{lock, recover};
use blocks::Blocks;
use requests::Requests;

/// §5.15.3: VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE.
const F_UNPLUGGED_INACCESSIBLE: u32 = 1;

/// Linux has one request in flight.
const QUEUE_SIZE: u16 = 64;

/// The region of memory that can be plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemRegion {
    /// The guest address of its start.
    pub addr: u64,
    /// Its length in bytes: the limit of plugged memory.
    pub size: u64,
    /// The unit of plugged memory: a power of two, and at least the page size of the memory
    /// behind it.
    pub block_size: u64,
}

/// The reason why a region or a size is not valid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemError {
    /// Start and length must be multiples of the block size, a power of two.
    #[error("invalid hot-plug region: {0:x?}")]
    Region(MemRegion),
    /// Not a multiple of the block size, or more than the region.
    #[error(
        "invalid size of plugged memory {size}: expected a multiple of {}, up to {}",
        .region.block_size, .region.size
    )]
    Size {
        /// The requested size.
        size: u64,
        /// The region.
        region: MemRegion,
    },
}

/// A memory device.
pub struct Mem {
    state: Arc<MemState>,
    queues: QueueSlots<SerialQueue<Requests>>,
}

/// State shared by the device, its thread and its controls.
struct MemState {
    blocks: Mutex<Blocks>,
    /// Notified when blocks have been plugged or unplugged.
    moved: Condvar,
    changed: OnceLock<Arc<dyn Interrupt>>,
}

impl MemState {
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        lock(&self.blocks)
    }
}

/// Controls a [`Mem`] that a transport owns.
#[derive(Clone)]
pub struct MemControl(Arc<MemState>);

impl MemControl {
    /// Asks the guest to plug or unplug memory up to this size.
    pub fn resize(&self, size: u64) -> Result<(), MemError> {
        self.0.blocks().request(size)?;
        // The change may end a wait.
        self.0.moved.notify_all();
        if let Some(changed) = self.0.changed.get() {
            changed.signal();
        }
        Ok(())
    }

    /// The last requested size in bytes.
    pub fn requested(&self) -> u64 {
        self.0.blocks().requested_size()
    }

    /// The plugged memory in bytes.
    pub fn plugged(&self) -> u64 {
        self.0.blocks().plugged_size()
    }

    /// Waits until the guest has plugged the requested memory, for at most `limit`. Returns the
    /// plugged bytes.
    pub fn wait(&self, limit: Duration) -> u64 {
        let unsettled = |blocks: &mut Blocks| blocks.plugged_size() != blocks.requested_size();
        let waited = self
            .0
            .moved
            .wait_timeout_while(self.0.blocks(), limit, unsettled);
        let (blocks, _) = recover(waited);
        blocks.plugged_size()
    }
}

impl Mem {
    /// A device for a region of guest memory without plugged blocks.
    pub fn new(region: MemRegion) -> Result<Mem, MemError> {
        Ok(Mem {
            state: Arc::new(MemState {
                blocks: Mutex::new(Blocks::new(region)?),
                moved: Condvar::new(),
                changed: OnceLock::new(),
            }),
            queues: QueueSlots::new(1, "start the mem thread"),
        })
    }

    /// The control of the device after a transport has taken it.
    pub fn control(&self) -> MemControl {
        MemControl(Arc::clone(&self.state))
    }
}

impl Device for Mem {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Mem
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 1 << F_UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.state.blocks().config(), offset, data);
    }

    fn set_config_interrupt(&mut self, changed: Arc<dyn Interrupt>) {
        if self.state.changed.set(changed).is_err() {
            log::error!("The memory device has its interrupt already");
        }
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        self.queues.start(index, queue, mem, kick, call, |ring| {
            SerialQueue::start("mem", ring, Requests(Arc::clone(&self.state)))
        })
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.queues.stop(index)
    }

    /// §5.15.5.2: blocks keep their state.
    fn reset(&mut self) {}
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
