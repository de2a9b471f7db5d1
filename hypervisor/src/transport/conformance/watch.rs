//! A watched device: every started queue must be returned. Tests can choose the start index of
//! its queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use virtio_queue::{Queue, QueueT};

use crate::event::EventFd;
use crate::virtio::{Device, DeviceError, DeviceKind, Interrupt, Memory};

/// See the module.
pub struct Watched {
    device: Box<dyn Device>,
    started: Vec<bool>,
    watch: Arc<Watch>,
}

/// The observations of the device.
#[derive(Default)]
pub struct Watch {
    /// Queues that were not returned, which happens when a thread panics.
    lost: AtomicUsize,
    /// The start index of queues that would start at 0.
    first: AtomicU16,
}

impl Watch {
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    pub fn begin_at(&self, first: u16) {
        self.first.store(first, Ordering::SeqCst);
    }
}

impl Watched {
    /// Watches `device`.
    pub fn new(device: Box<dyn Device>) -> (Watched, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        let watched = Watched {
            started: vec![false; device.queue_sizes().len()],
            device,
            watch: Arc::clone(&watch),
        };
        (watched, watch)
    }
}

impl Device for Watched {
    fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.device.queue_sizes()
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    fn set_features(&mut self, features: u64) {
        self.device.set_features(features);
    }

    fn set_config_interrupt(&mut self, changed: Arc<dyn Interrupt>) {
        self.device.set_config_interrupt(changed);
    }

    fn start_queue(
        &mut self,
        index: usize,
        mut queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        let first = self.watch.first.load(Ordering::SeqCst);
        if first != 0 && queue.next_avail() == 0 {
            queue.set_next_avail(first);
            queue.set_next_used(first);
        }
        self.device.start_queue(index, queue, mem, kick, call)?;
        self.started[index] = true;
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let queue = self.device.stop_queue(index);
        if std::mem::take(&mut self.started[index]) && queue.is_none() {
            self.watch.lost.fetch_add(1, Ordering::SeqCst);
        }
        queue
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}
