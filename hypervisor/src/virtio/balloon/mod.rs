//! The balloon device (virtio 1.2 §5.5): it returns the guest's unused memory to the host.
//!
//! ```text
//!  guest                                                              host
//!   balloon driver ── inflate ──▶ balloon-inflate ─┐
//!                  ── deflate ──▶ balloon-deflate  ├─▶ discard ──▶ memfd: a hole
//!   free pages ───── report ────▶ balloon-report ──┘
//!                  ◀─ num_pages ── BalloonControl::set_target ◀── the VMM
//! ```
//!
//! Free page reporting (§5.5.6.7) needs no control: the guest reports memory that has been free
//! for a while, and may use it again without a request. Inflation is for a host that needs
//! memory which the guest would use for caches; the guest may take memory back rather than kill
//! a process (`DEFLATE_ON_OOM`).
//!
//! When the guest accesses returned memory, it gets zeroed pages again. So a guest that
//! inflates the balloon and then uses the pages has the memory of its start, and no more; the
//! pod's cgroup is the limit. With huge pages, inflation returns no memory, since the driver
//! passes small pages; reports are large enough.
//!
//! `PAGE_POISON` is not offered: pages come back as zeroes, and a guest that needs another
//! pattern in its free pages does not report them.

mod queues;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use virtio_queue::Queue;

use super::config::read_bytes;
use super::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, QueueSlots, RING_FEATURES, SerialQueue,
};
use crate::event::EventFd;
use queues::BalloonQueue;

/// §5.5.3: VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
const F_DEFLATE_ON_OOM: u32 = 2;
/// §5.5.3: VIRTIO_BALLOON_F_PAGE_REPORTING.
const F_PAGE_REPORTING: u32 = 5;

/// §5.5.2: the reporting queue is the last, number 4.
const QUEUES: usize = 5;
/// Linux reports up to 32 ranges at a time, each in a descriptor.
const QUEUE_SIZE: u16 = 128;

/// §5.5.4: where the driver writes `actual`.
const ACTUAL: std::ops::Range<usize> = 4..8;
/// §5.5.4: the length of the configuration.
const CONFIG_LEN: usize = 16;

/// A balloon device.
pub struct Balloon {
    state: Arc<BalloonState>,
    queues: QueueSlots<SerialQueue<BalloonQueue>>,
}

/// State shared by the device and its controls.
#[derive(Default)]
struct BalloonState {
    /// The pages that the guest should give, and has given.
    target: AtomicU32,
    actual: AtomicU32,
    changed: OnceLock<Arc<dyn Interrupt>>,
}

/// Controls a [`Balloon`] that a transport owns.
#[derive(Clone)]
pub struct BalloonControl(Arc<BalloonState>);

impl BalloonControl {
    /// Asks the guest for this many pages of 4 KiB in total.
    pub fn set_target(&self, pages: u32) {
        self.0.target.store(pages, Ordering::SeqCst);
        if let Some(changed) = self.0.changed.get() {
            changed.signal();
        }
    }

    /// The number of pages that the guest has given, by its own report.
    pub fn actual(&self) -> u32 {
        self.0.actual.load(Ordering::SeqCst)
    }
}

impl Balloon {
    /// An empty balloon.
    pub fn new() -> Balloon {
        Balloon {
            state: Arc::default(),
            queues: QueueSlots::new(QUEUES, "start a balloon thread"),
        }
    }

    /// The control of the balloon after a transport has taken it.
    pub fn control(&self) -> BalloonControl {
        BalloonControl(Arc::clone(&self.state))
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let target = self.state.target.load(Ordering::SeqCst);
        config[..ACTUAL.start].copy_from_slice(&target.to_le_bytes());
        let actual = self.state.actual.load(Ordering::SeqCst);
        config[ACTUAL].copy_from_slice(&actual.to_le_bytes());
        config
    }
}

impl Default for Balloon {
    fn default() -> Balloon {
        Balloon::new()
    }
}

impl Device for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 1 << F_DEFLATE_ON_OOM | 1 << F_PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    /// The driver writes the number of given pages; all other fields are read-only.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let mut config = self.config();
        let Some(place) = config.get_mut(offset..) else {
            return;
        };
        for (byte, value) in place.iter_mut().zip(data) {
            *byte = *value;
        }
        let mut actual = [0; 4];
        actual.copy_from_slice(&config[ACTUAL]);
        let actual = u32::from_le_bytes(actual);
        self.state.actual.store(actual, Ordering::SeqCst);
    }

    fn set_config_interrupt(&mut self, changed: Arc<dyn Interrupt>) {
        if self.state.changed.set(changed).is_err() {
            log::error!("The balloon has its interrupt already");
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
            let role = BalloonQueue::of(index);
            SerialQueue::start(role.thread(), ring, role)
        })
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.queues.stop(index)
    }

    fn reset(&mut self) {
        self.state.actual.store(0, Ordering::SeqCst);
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
