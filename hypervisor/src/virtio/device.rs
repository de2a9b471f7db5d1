//! The interface between virtio devices and transports.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::event::EventFd;

/// The guest's memory. Regions may be added and removed; a queue sees a change with the next
/// chain that it takes.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Device ids of virtio 1.2 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// §5.1 Network Device.
    Net = 1,
    /// §5.2 Block Device.
    Block = 2,
    /// §5.4 Entropy Device.
    Rng = 4,
    /// §5.5 Traditional Memory Balloon Device.
    Balloon = 5,
    /// §5.10 Socket Device.
    Vsock = 19,
    /// §5.15 Memory Device.
    Mem = 24,
    /// §5.11 File System Device.
    Fs = 26,
}

impl DeviceKind {
    /// A short name for logs.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Net => "net",
            DeviceKind::Block => "block",
            DeviceKind::Rng => "rng",
            DeviceKind::Balloon => "balloon",
            DeviceKind::Mem => "mem",
            DeviceKind::Vsock => "vsock",
            DeviceKind::Fs => "fs",
        }
    }
}

/// The reason why a queue cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device has fewer queues.
    #[error("queue {0} does not exist")]
    NoQueue(usize),
    /// The queue is being served already.
    #[error("queue {0} is already started")]
    Started(usize),
    /// The rings lie outside guest memory.
    #[error("queue {0} is not in guest memory")]
    BadQueue(usize),
    /// A thread, socket or other resource could not be made.
    #[error("cannot {what}: {source}")]
    Io {
        /// The failed action.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// Signals the driver: a queue's interrupt reports used buffers, the device's own a changed
/// configuration.
pub trait Interrupt: Send + Sync {
    /// Signals the driver.
    fn signal(&self);

    /// Reports that the driver has broken the rules of the ring. The ring is no longer served:
    /// the device needs a reset (virtio 1.2 §2.1.2).
    fn failed(&self);
}

/// A virtio device.
///
/// The transport negotiates features, then starts queues; threads of the device serve a started
/// queue until it is stopped. A stop keeps the device's state (open files, connections), so
/// that a VM can be paused; [`reset`](Device::reset) drops it.
pub trait Device: Send {
    /// The kind of the device.
    fn kind(&self) -> DeviceKind;

    /// Feature bits offered to the driver, including those of the ring.
    fn features(&self) -> u64;

    /// The preferred size of each queue; there are as many queues as entries.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space. Bytes beyond its end read as zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes the configuration space. Bytes that are not writable keep their values.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// Sets the features that the driver acknowledged, all of them offered. Called before the
    /// first queue starts, and again after a reset.
    fn set_features(&mut self, _features: u64) {}

    /// Gives the device the interrupt for changes of the configuration space (virtio
    /// 1.2 §2.3). Called once, before anything else.
    fn set_config_interrupt(&mut self, _changed: Arc<dyn Interrupt>) {}

    /// Serves queue `index`: its present chains, and more after each kick. `queue` has the
    /// addresses and positions, and the use of event indices.
    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError>;

    /// Stops queue `index`, after all taken chains have been returned, and returns the queue;
    /// `None` if it was not started.
    fn stop_queue(&mut self, index: usize) -> Option<Queue>;

    /// The driver has reset the device: drop all state except the configuration. The queues are
    /// stopped before.
    fn reset(&mut self);
}

#[cfg(test)]
mod tests {
    use super::DeviceKind::*;

    #[test]
    fn kinds_have_the_numbers_of_the_specification() {
        let kinds = [Net, Block, Rng, Balloon, Vsock, Mem, Fs];
        let found = kinds.map(|kind| (kind as u32, kind.name()));
        let expected = [
            (1, "net"),
            (2, "block"),
            (4, "rng"),
            (5, "balloon"),
            (19, "vsock"),
            (24, "mem"),
            (26, "fs"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn devices_have_these_features_and_queues() {
        use super::Device;
        use crate::virtio::{balloon, fs, mem, rng, vsock};
        let dir = tempfile::tempdir().unwrap();
        let region = mem::MemRegion {
            addr: 0,
            size: 2 << 20,
            block_size: 2 << 20,
        };
        // INDIRECT_DESC, EVENT_IDX, VERSION_1.
        let ring = 1 << 28 | 1 << 29 | 1 << 32;
        type Expected = (Box<dyn Device>, u64, &'static [u16], super::DeviceKind);
        let devices: [Expected; 5] = [
            (Box::new(rng::Rng::new()), 0, &[64], Rng),
            // DEFLATE_ON_OOM, REPORTING.
            (
                Box::new(balloon::Balloon::new()),
                1 << 2 | 1 << 5,
                &[128; 5],
                Balloon,
            ),
            // UNPLUGGED_INACCESSIBLE.
            (Box::new(mem::Mem::new(region).unwrap()), 1 << 1, &[64], Mem),
            (
                Box::new(vsock::Vsock::new(3, &dir.path().join("v")).unwrap()),
                0,
                &[128; 3],
                Vsock,
            ),
            (
                Box::new(fs::Fs::new("t", dir.path(), 10).unwrap()),
                0,
                &[1024; 2],
                Fs,
            ),
        ];
        for (device, own, sizes, kind) in devices {
            assert_eq!(device.kind(), kind);
            assert_eq!(device.features(), ring | own, "{kind:?}");
            assert_eq!(device.queue_sizes(), sizes, "{kind:?}");
        }
    }
}
