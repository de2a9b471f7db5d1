//! A device without a function; it checks the calls of its transport.

use std::sync::Arc;

use virtio_queue::Queue;

use crate::event::EventFd;
use crate::virtio::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, RING_FEATURES, Ring, serve_batch,
};

/// The sizes of its queues.
const SIZES: [u16; 3] = [16, 64, 128];

/// See the module. It returns its chains when queues start, and at each read of its
/// configuration.
#[derive(Default)]
pub(crate) struct Plain {
    rings: [Option<Ring>; SIZES.len()],
    features: Option<u64>,
    config: [u8; 24],
    changed: Option<Arc<dyn Interrupt>>,
}

struct Nothing;

impl crate::virtio::Handler for Nothing {
    fn handle(
        &mut self,
        _: &vm_memory::GuestMemoryMmap,
        chain: crate::virtio::ring::Chain<'_>,
    ) -> u32 {
        chain.map(|desc| u32::from(desc.is_write_only())).sum()
    }
}

impl Plain {
    fn serve(&mut self) {
        for ring in self.rings.iter_mut().flatten() {
            for _ in 0..4 {
                if !serve_batch(ring, &mut Nothing) {
                    break;
                }
            }
        }
    }
}

impl Device for Plain {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 0x3f
    }

    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        crate::virtio::config::read_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(place) = self.config.get_mut(offset..) {
            for (byte, value) in place.iter_mut().zip(data) {
                *byte = *value;
            }
        }
        if let Some(changed) = &self.changed {
            changed.signal();
        }
        self.serve();
    }

    fn set_features(&mut self, features: u64) {
        assert_eq!(features & !self.features(), 0, "features never offered");
        self.features = Some(features);
    }

    fn set_config_interrupt(&mut self, changed: Arc<dyn Interrupt>) {
        assert!(self.changed.replace(changed).is_none(), "twice");
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        assert!(self.rings[index].is_none(), "started twice");
        self.rings[index] = Some(Ring::new(index, queue, mem, kick, call)?);
        self.serve();
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.rings[index].take().map(Ring::into_queue)
    }

    fn reset(&mut self) {
        let idle = self.rings.iter().all(Option::is_none);
        assert!(idle, "reset while queues are served");
        self.features = None;
    }
}
