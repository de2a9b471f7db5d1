//! Attaches devices to slots and detaches them, also while the guest runs.
//!
//! A guest reads from a slot's registers whether the slot has a device. It probes all slots at
//! boot; later the agent has to probe a slot again (`attach`).

use std::collections::BTreeMap;
use std::io;
use std::sync::MutexGuard;

use kvm_ioctls::{IoEventAddress, VmFd};

use super::layout;
use super::{Machine, MachineError};
use crate::event::EventFd;
use crate::sync::lock;
use crate::transport::mmio::{Mmio, QUEUE_NOTIFY};
use crate::virtio::Device;

/// The events between KVM and the devices, by slot.
pub(super) type Wires = BTreeMap<usize, Wire>;

/// The events of one device. They must be removed from KVM when the device is detached.
pub(super) struct Wire {
    gsi: u32,
    notify: IoEventAddress,
    irq: Option<EventFd>,
    /// In the order of the queues.
    kicks: Vec<EventFd>,
}

impl Machine {
    /// Attaches a device to the first free slot; returns the slot's number. A running guest
    /// must probe the slot again to find it.
    pub fn attach(&self, device: Box<dyn Device>) -> Result<usize, MachineError> {
        let kind = device.kind().name();
        let failed = |source| MachineError::Device { kind, source };
        for (index, mut slot) in self.bus.slots().enumerate() {
            if slot.is_some() {
                continue;
            }
            let line = EventFd::new().map_err(failed)?;
            let irq = line.try_clone().map_err(failed)?;
            let mmio = Mmio::new(device, self.mem.clone(), line).map_err(failed)?;
            let kicks = mmio.kicks().iter().map(EventFd::try_clone);
            let kicks = kicks.collect::<io::Result<Vec<_>>>().map_err(failed)?;
            let wire = Wire::connect(&self.vm, index, irq, kicks)?;
            self.wires().insert(index, wire);
            *slot = Some(mmio);
            return Ok(index);
        }
        Err(MachineError::NoSlot(layout::SLOT_COUNT))
    }

    /// Detaches and ends the device of a slot. For a guest that still uses it, this is a
    /// surprise removal: the registers read as those of a free slot.
    pub fn detach(&self, index: usize) -> Result<(), MachineError> {
        let mut slot = self.bus.slots().nth(index);
        let device = slot.as_mut().and_then(|slot| slot.take());
        drop(slot);
        let device = device.ok_or(MachineError::EmptySlot(index))?;
        let wire = self.wires().remove(&index);
        // Its threads end here, after they have finished their requests.
        drop(device);
        wire.map_or(Ok(()), |mut wire| wire.disconnect(&self.vm))
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        lock(&self.wires)
    }
}

impl Wire {
    /// Connects a device. After an error, no event stays connected.
    fn connect(
        vm: &VmFd,
        index: usize,
        irq: EventFd,
        kicks: Vec<EventFd>,
    ) -> Result<Wire, MachineError> {
        let mut wire = Wire {
            gsi: layout::slot_gsi(index),
            notify: IoEventAddress::Mmio(layout::slot_address(index) + QUEUE_NOTIFY),
            irq: None,
            kicks: Vec::new(),
        };
        let connect = || {
            vm.register_irqfd(irq.for_kvm(), wire.gsi)
                .map_err(MachineError::kvm("KVM_IRQFD"))?;
            wire.irq = Some(irq);
            for (queue, kick) in (0u32..).zip(kicks) {
                vm.register_ioevent(kick.for_kvm(), &wire.notify, queue)
                    .map_err(MachineError::kvm("KVM_IOEVENTFD"))?;
                wire.kicks.push(kick);
            }
            Ok(())
        };
        let connected = connect();
        if connected.is_err() {
            // The first error explains more.
            let _ = wire.disconnect(vm);
        }
        connected.map(|()| wire)
    }

    /// Disconnects all events; returns the first error.
    fn disconnect(&mut self, vm: &VmFd) -> Result<(), MachineError> {
        let mut result = Ok(());
        for (queue, kick) in (0u32..).zip(self.kicks.drain(..)) {
            let gone = vm.unregister_ioevent(kick.for_kvm(), &self.notify, queue);
            result = result.and(gone.map_err(MachineError::kvm("KVM_IOEVENTFD")));
        }
        if let Some(irq) = self.irq.take() {
            let gone = vm.unregister_irqfd(irq.for_kvm(), self.gsi);
            result = result.and(gone.map_err(MachineError::kvm("KVM_IRQFD")));
        }
        result
    }
}
