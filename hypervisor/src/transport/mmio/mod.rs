//! virtio-mmio (virtio 1.2 §4.2): a device behind a page of registers. Version 2 only.
//!
//! ```text
//!   vCPU ── register access ──▶ Mmio ── start_queue, stop_queue ──▶ Device
//!        ── QueueNotify ── ioeventfd ─────── kick ────────────────▶ its threads
//!        ◀── irqfd ── InterruptLine ◀─── Interrupt ──────────────── its threads
//! ```
//!
//! It does not use KVM: the machine passes the vCPUs' accesses to it, and connects the kicks to
//! the notify register and the interrupt's event to the guest.
//!
//! The driver is hostile. Invalid writes, or writes at a wrong time, have no effect; the first
//! few are logged. If a queue cannot be served, or the driver breaks it later, the device
//! reports `DEVICE_NEEDS_RESET`.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod line;
mod queue;
pub(super) mod registers;

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;

use crate::event::EventFd;
use crate::virtio::{Device, DeviceError, DeviceKind, Memory};
use line::{ConfigInterrupt, InterruptLine, UsedInterrupt};
use queue::{QueueRegisters, QueueState};
use registers::status;

pub use registers::QUEUE_NOTIFY;

/// The size of one device in the guest's address space.
pub const SLOT_SIZE: u64 = 0x1000;

/// The configuration spaces of all devices are smaller.
const MAX_CONFIG: usize = 256;
/// The most warnings that are logged for one driver.
const MAX_WARNINGS: u32 = 16;

/// The answer of a slot without a device: device id 0 makes the driver ignore it (§4.2.2.1).
pub fn read_empty(offset: u64, data: &mut [u8]) {
    data.fill(0);
    let value = match offset {
        registers::MAGIC_VALUE => registers::MAGIC,
        registers::VERSION => registers::VERSION_2,
        registers::VENDOR_ID => registers::VENDOR,
        _ => 0,
    };
    if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
        *word = value.to_le_bytes();
    }
}

/// A device in a slot. Dropping it stops the device.
pub struct Mmio {
    device: Box<dyn Device>,
    mem: Memory,
    line: Arc<InterruptLine>,
    queues: Vec<QueueRegisters>,
    kicks: Vec<EventFd>,
    device_features_sel: u32,
    driver_features_sel: u32,
    /// Wider than the offered features, to detect a driver that accepts more.
    driver_features: u128,
    queue_sel: u32,
    generation: u32,
    /// The configuration space at the last read of its generation.
    seen_config: [u8; MAX_CONFIG],
    paused: bool,
    warnings: u32,
}

impl Mmio {
    /// Puts `device` behind registers. Writing to `irq` must raise the edge-triggered
    /// interrupt of the slot.
    pub fn new(mut device: Box<dyn Device>, mem: Memory, irq: EventFd) -> io::Result<Mmio> {
        let kicks = device
            .queue_sizes()
            .iter()
            .map(|_| EventFd::new())
            .collect::<io::Result<_>>()?;
        let queues = device.queue_sizes().iter().copied();
        let queues = queues.map(QueueRegisters::new).collect();
        let line = Arc::new(InterruptLine::new(irq));
        device.set_config_interrupt(Arc::new(ConfigInterrupt(Arc::clone(&line))));
        let mut mmio = Mmio {
            device,
            mem,
            line,
            queues,
            kicks,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            generation: 0,
            seen_config: [0; MAX_CONFIG],
            paused: false,
            warnings: 0,
        };
        mmio.device.read_config(0, &mut mmio.seen_config);
        Ok(mmio)
    }

    /// The events to write to when the driver writes a queue's index to [`QUEUE_NOTIFY`], one
    /// for each queue.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The kind of the device.
    pub fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    /// The device, for its own operations.
    pub fn device_mut(&mut self) -> &mut dyn Device {
        &mut *self.device
    }

    /// The Status register (§2.1).
    pub fn status(&self) -> u32 {
        self.line.status()
    }

    /// Whether the device waits for a reset by the driver, after an error.
    pub fn needs_reset(&self) -> bool {
        self.line.has_status(status::NEEDS_RESET)
    }

    /// Stops serving the queues, which keep their positions.
    pub fn pause(&mut self) {
        self.paused = true;
        for index in 0..self.queues.len() {
            if let Some(queue) = self.stop(index) {
                self.queues[index].state = QueueState::Waiting(queue);
            }
        }
    }

    /// Continues after [`pause`](Mmio::pause).
    pub fn resume(&mut self) {
        self.paused = false;
        self.serve_waiting();
    }

    /// A read by the driver of `data.len()` bytes at `offset` in the slot.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = config_offset(offset) {
            self.device.read_config(offset, data);
            return;
        }
        // §4.2.2.2: registers are accessed as words.
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else {
            return self.warn(format_args!("reads a part of register {offset:#x}"));
        };
        let value = match offset {
            registers::DEVICE_ID => self.kind() as u32,
            registers::DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            registers::QUEUE_NUM_MAX => self.selected().map_or(0, |queue| queue.max.into()),
            registers::QUEUE_READY => self.selected().map_or(0, |queue| queue.ready.into()),
            registers::INTERRUPT_STATUS => self.line.pending(),
            registers::STATUS => self.line.status(),
            // There is no shared memory region, for any selection.
            registers::SHM_LEN_LOW..=registers::SHM_BASE_HIGH if offset.is_multiple_of(4) => {
                u32::MAX
            }
            // The reset is over when the write returns.
            registers::QUEUE_RESET => 0,
            registers::CONFIG_GENERATION => self.config_generation(),
            _ => return read_empty(offset, word),
        };
        *word = value.to_le_bytes();
    }

    /// A write by the driver of `data` at `offset` in the slot.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = config_offset(offset) {
            // §3.1.1: only after the negotiation of features.
            if self.line.has_status(status::FEATURES_OK) {
                self.device.write_config(offset, data);
            } else {
                self.warn(format_args!("writes to the configuration too early"));
            }
            return;
        }
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return self.warn(format_args!("writes a part of register {offset:#x}"));
        };
        let value = u32::from_le_bytes(word);
        match offset {
            registers::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            registers::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            registers::DRIVER_FEATURES => self.set_driver_features(value),
            registers::QUEUE_SEL => self.queue_sel = value,
            registers::QUEUE_NOTIFY => self.notify(value),
            registers::INTERRUPT_ACK => self.line.acknowledge(value),
            registers::STATUS => self.set_status(value),
            registers::SHM_SEL => {}
            registers::QUEUE_NUM
            | registers::QUEUE_READY
            | registers::QUEUE_RESET
            | registers::QUEUE_DESC_LOW..=registers::QUEUE_DEVICE_HIGH => {
                self.write_queue(offset, value);
            }
            _ => self.warn(format_args!("writes to register {offset:#x}")),
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_RING_RESET
    }

    fn negotiated(&self, feature: u32) -> bool {
        self.driver_features & 1 << feature != 0
    }

    fn set_driver_features(&mut self, value: u32) {
        let accepted = self.line.has_status(status::FEATURES_OK);
        if accepted || !self.line.has_status(status::DRIVER) {
            return self.warn(format_args!("writes its features at the wrong time"));
        }
        match self.driver_features_sel {
            sel @ 0..4 => {
                let shift = sel * 32;
                let others = self.driver_features & !(0xffff_ffff << shift);
                self.driver_features = others | u128::from(value) << shift;
            }
            _ => self.warn(format_args!("writes features beyond the last word")),
        }
    }

    /// §3.1.1: the driver's steps through the status bits.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // A driver writes back the read value with an added bit.
        let mut value = value & !status::NEEDS_RESET;
        let now = self.line.status() & !status::NEEDS_RESET;
        let order = [
            (status::ACKNOWLEDGE, status::DRIVER),
            (status::DRIVER, status::FEATURES_OK),
            (status::FEATURES_OK, status::DRIVER_OK),
        ];
        let unordered = order
            .iter()
            .any(|(first, then)| value & first == 0 && value & then != 0);
        if unordered || now & !value != 0 || value & !status::SETTABLE != 0 {
            let what = format_args!("sets its status from {now:#x} to {value:#x}");
            return self.warn(what);
        }
        let new = value & !now;
        if new & status::FEATURES_OK != 0 && !self.accept_features() {
            value &= !(status::FEATURES_OK | status::DRIVER_OK);
        }
        self.line.add_status(value);
        if value & new & status::DRIVER_OK != 0 {
            self.serve_waiting();
        }
    }

    fn accept_features(&mut self) -> bool {
        let features = self.driver_features;
        let known = features & !u128::from(self.offered()) == 0;
        if !known || !self.negotiated(VIRTIO_F_VERSION_1) {
            self.warn(format_args!("takes features {features:#x}"));
            return false;
        }
        let own = features as u64 & self.device.features();
        self.device.set_features(own);
        true
    }

    fn reset(&mut self) {
        for index in 0..self.queues.len() {
            self.stop(index);
            self.queues[index] = QueueRegisters::new(self.queues[index].max);
            // Discard an old kick.
            let _ = self.kicks[index].read();
        }
        self.device.reset();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.line.reset();
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_sel as usize)
    }

    /// A write to a register of the selected queue.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let index = self.queue_sel as usize;
        if index >= self.queues.len() || !self.line.has_status(status::FEATURES_OK) {
            // When Linux resets a device to release it, it disables each queue.
            if (offset, value) != (registers::QUEUE_READY, 0) {
                self.warn(format_args!("sets up queue {index}"));
            }
            return;
        }
        match offset {
            registers::QUEUE_READY if value == 0 => self.reset_queue(index),
            registers::QUEUE_RESET if value == 1 && self.negotiated(VIRTIO_F_RING_RESET) => {
                self.reset_queue(index);
            }
            registers::QUEUE_RESET => self.warn(format_args!("resets queue {index}")),
            // §4.2.2.2: a ready queue cannot be changed.
            _ if self.queues[index].ready => {
                self.warn(format_args!("changes queue {index} while it is ready"));
            }
            registers::QUEUE_READY if value == 1 => self.make_ready(index),
            _ => self.queues[index].write(offset, value),
        }
    }

    fn make_ready(&mut self, index: usize) {
        let event_idx = self.negotiated(VIRTIO_RING_F_EVENT_IDX);
        let queue = &mut self.queues[index];
        queue.ready = true;
        match queue.queue(event_idx) {
            Ok(ring) => {
                queue.state = QueueState::Waiting(ring);
                self.serve_waiting();
            }
            Err(err) => self.fail(index, err),
        }
    }

    /// §2.6.1: the queue is as after a reset of the device.
    fn reset_queue(&mut self, index: usize) {
        self.stop(index);
        self.queues[index] = QueueRegisters::new(self.queues[index].max);
    }

    /// Starts the queues that may be served.
    fn serve_waiting(&mut self) {
        if self.paused || !self.line.has_status(status::DRIVER_OK) {
            return;
        }
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues[index].take_waiting() else {
                continue;
            };
            match self.start(index, queue) {
                Ok(()) => self.queues[index].state = QueueState::Running,
                Err(err) => self.fail(index, err),
            }
        }
    }

    fn start(&mut self, index: usize, queue: Queue) -> Result<(), DeviceError> {
        let kick = self.kicks[index]
            .try_clone()
            .map_err(|source| DeviceError::Io {
                what: "clone the kick of a queue",
                source,
            })?;
        let call = Arc::new(UsedInterrupt(Arc::clone(&self.line)));
        self.device
            .start_queue(index, queue, self.mem.clone(), kick, call)
    }

    /// Takes queue `index` out of its state, with its positions.
    fn stop(&mut self, index: usize) -> Option<Queue> {
        match std::mem::take(&mut self.queues[index].state) {
            QueueState::Nowhere => None,
            QueueState::Waiting(queue) => Some(queue),
            QueueState::Running => {
                let queue = self.device.stop_queue(index);
                if queue.is_none() {
                    self.fail(index, "the device lost it");
                }
                queue
            }
        }
    }

    fn fail(&self, index: usize, err: impl std::fmt::Display) {
        let device = self.kind().name();
        log::error!("{device}: queue {index} cannot be served: {err}");
        self.line.fail();
    }

    fn notify(&mut self, index: u32) {
        let index = index as usize;
        match self.queues.get(index) {
            Some(queue) if queue.ready => {
                // A full counter counts as a kick.
                let _ = self.kicks[index].write(1);
            }
            _ => self.warn(format_args!("notifies of queue {index}")),
        }
    }

    /// Changes at each observed change of the configuration (§2.5.1). The comparison is better
    /// than a count of the device's signals: between a change and its signal, the driver would
    /// trust an old value.
    fn config_generation(&mut self) -> u32 {
        let mut config = [0; MAX_CONFIG];
        self.device.read_config(0, &mut config);
        if config != self.seen_config {
            self.seen_config = config;
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }

    fn warn(&mut self, what: std::fmt::Arguments<'_>) {
        if self.warnings < MAX_WARNINGS {
            self.warnings += 1;
            let device = self.kind().name();
            log::warn!("The driver of {device} {what}, which is ignored");
        }
    }
}

fn config_offset(offset: u64) -> Option<usize> {
    let offset = offset.checked_sub(registers::CONFIG)?;
    Some(usize::try_from(offset).unwrap_or(usize::MAX))
}

/// The selected word of the features.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
