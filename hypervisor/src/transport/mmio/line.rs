//! The state that the vCPUs share with the threads of the device: the interrupt and the status.
//!
//! There is no lock. A thread of the device first records the event, then checks whether the
//! driver listens (`DRIVER_OK`); the driver's vCPU first sets `DRIVER_OK`, then checks for an
//! event. So no event is lost, and a vCPU may wait for a thread that is just raising the
//! interrupt.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::registers::{interrupt, status};
use crate::event::EventFd;
use crate::virtio::Interrupt;

/// See the module.
pub(super) struct InterruptLine {
    irq: EventFd,
    status: AtomicU32,
    /// The InterruptStatus register.
    pending: AtomicU32,
}

impl InterruptLine {
    pub fn new(irq: EventFd) -> InterruptLine {
        InterruptLine {
            irq,
            status: AtomicU32::new(0),
            pending: AtomicU32::new(0),
        }
    }

    pub fn status(&self) -> u32 {
        self.status.load(SeqCst)
    }

    pub fn has_status(&self, bits: u32) -> bool {
        self.status() & bits == bits
    }

    /// Sets bits of the status. `DRIVER_OK` raises the interrupt for earlier events.
    pub fn add_status(&self, bits: u32) {
        let before = self.status.fetch_or(bits, SeqCst);
        if bits & !before & status::DRIVER_OK != 0 && self.pending() != 0 {
            self.fire();
        }
    }

    pub fn pending(&self) -> u32 {
        self.pending.load(SeqCst)
    }

    pub fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, SeqCst);
    }

    /// Clears pending interrupts and the status.
    pub fn reset(&self) {
        self.status.store(0, SeqCst);
        self.pending.store(0, SeqCst);
    }

    /// virtio 1.2 §2.1.2: the device does not work until it is reset.
    pub fn fail(&self) {
        self.status.fetch_or(status::NEEDS_RESET, SeqCst);
        self.raise(interrupt::CONFIG);
    }

    fn raise(&self, bits: u32) {
        self.pending.fetch_or(bits, SeqCst);
        if self.has_status(status::DRIVER_OK) {
            self.fire();
        }
    }

    fn fire(&self) {
        match self.irq.write(1) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {} // A full counter interrupts, too.
            Err(err) => log::error!("Cannot raise an interrupt: {err}"),
        }
    }
}

/// The interrupt of the queues.
pub(super) struct UsedInterrupt(pub Arc<InterruptLine>);

impl Interrupt for UsedInterrupt {
    fn signal(&self) {
        self.0.raise(interrupt::USED);
    }

    fn failed(&self) {
        self.0.fail();
    }
}

/// The interrupt of the configuration space.
pub(super) struct ConfigInterrupt(pub Arc<InterruptLine>);

impl Interrupt for ConfigInterrupt {
    fn signal(&self) {
        self.0.raise(interrupt::CONFIG);
    }

    fn failed(&self) {
        self.0.fail();
    }
}
