//! A device that is watched: every queue that is started must come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::eventfd::EventFd;
use virtio_queue::Queue;

use crate::virtio::{Device, DeviceError, DeviceKind, Interrupt, Memory};

/// See the module.
pub struct Watched {
    device: Box<dyn Device>,
    started: Vec<bool>,
    lost: Arc<AtomicUsize>,
}

impl Watched {
    /// Watches `device`; the second value counts queues that were lost, which happens
    /// when a thread panics.
    pub fn new(device: Box<dyn Device>) -> (Watched, Arc<AtomicUsize>) {
        let lost = Arc::new(AtomicUsize::new(0));
        let watched = Watched {
            started: vec![false; device.queue_sizes().len()],
            device,
            lost: Arc::clone(&lost),
        };
        (watched, lost)
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
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        self.device.start_queue(index, queue, mem, kick, call)?;
        self.started[index] = true;
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let queue = self.device.stop_queue(index);
        if std::mem::take(&mut self.started[index]) && queue.is_none() {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        queue
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}
