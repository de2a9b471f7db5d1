//! Virtio devices, independent of transport and hypervisor.
//!
//! A device implements [`Device`]; a [transport](crate::transport) drives it. The device owns
//! the threads that serve its queues. Each thread has a [kind](crate::jail::ThreadKind) that
//! the jail confines:
//!
//! | queues served by | devices |
//! |---|---|
//! | one thread each, in order (`SerialQueue`) | rng, balloon, mem, net's control |
//! | several threads each (`SharedQueue`) | block, fs |
//! | one thread for several queues (`Restartable`) | net (a pair), vsock (all) |
//!
//! All data that a driver puts into a queue comes from a guest that may be hostile: it is
//! bounded and checked. A guest can only make the device stop serving its own queue.

pub mod balloon;
pub mod block;
mod buffers;
pub(crate) mod config;
mod device;
mod discard;
pub mod fs;
pub mod mem;
pub mod net;
mod queue_slots;
pub(crate) mod ring;
pub mod rng;
mod serial_queue;
mod shared_queue;
#[cfg(test)]
pub(crate) mod testing;
pub mod vsock;
mod worker;

pub use device::{Device, DeviceError, DeviceKind, Interrupt, Memory};
pub(crate) use queue_slots::QueueSlots;
pub(crate) use ring::{RING_FEATURES, Ring};
#[cfg(feature = "fuzzing")]
pub(crate) use serial_queue::serve_batch;
pub(crate) use serial_queue::{Handler, SerialQueue};
pub(crate) use shared_queue::{SharedQueue, SharedRing};
pub(crate) use worker::{Restartable, Worker};
