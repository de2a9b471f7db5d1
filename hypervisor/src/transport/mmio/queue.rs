//! The registers of one queue, and its state.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::registers;

/// Whether the device serves the queue.
#[derive(Default)]
pub(super) enum QueueState {
    /// The driver has not made the queue ready, or it cannot be served.
    #[default]
    Nowhere,
    /// Ready, but not served before `DRIVER_OK` or during a pause. Keeps its positions.
    Waiting(Queue),
    /// The device serves it.
    Running,
}

/// See the module.
pub(super) struct QueueRegisters {
    /// QueueNumMax.
    pub max: u16,
    /// QueueNum.
    pub size: u32,
    /// QueueReady.
    pub ready: bool,
    pub state: QueueState,
    desc: u64,
    driver: u64,
    device: u64,
}

impl QueueRegisters {
    pub fn new(max: u16) -> QueueRegisters {
        QueueRegisters {
            max,
            size: 0,
            ready: false,
            state: QueueState::Nowhere,
            desc: 0,
            driver: 0,
            device: 0,
        }
    }

    /// A write by the driver to a register that describes the queue.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            registers::QUEUE_NUM => self.size = value,
            registers::QUEUE_DESC_LOW => set_low(&mut self.desc, value),
            registers::QUEUE_DESC_HIGH => set_high(&mut self.desc, value),
            registers::QUEUE_DRIVER_LOW => set_low(&mut self.driver, value),
            registers::QUEUE_DRIVER_HIGH => set_high(&mut self.driver, value),
            registers::QUEUE_DEVICE_LOW => set_low(&mut self.device, value),
            registers::QUEUE_DEVICE_HIGH => set_high(&mut self.device, value),
            _ => {}
        }
    }

    /// The queue, if it waits to be served.
    pub fn take_waiting(&mut self) -> Option<Queue> {
        match std::mem::take(&mut self.state) {
            QueueState::Waiting(queue) => Some(queue),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// The queue that the registers describe, at its start.
    pub fn queue(&self, event_idx: bool) -> Result<Queue, virtio_queue::Error> {
        let size = u16::try_from(self.size)
            .ok()
            .filter(|size| *size <= self.max)
            .ok_or(virtio_queue::Error::InvalidSize)?;
        let mut queue = Queue::new(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}
