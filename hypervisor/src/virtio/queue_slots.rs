//! The queues of a device that serves each of them separately.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;

use super::{DeviceError, Handler, Interrupt, Memory, Ring, SerialQueue, SharedQueue};
use crate::event::EventFd;

/// A queue with the threads that serve it.
pub(crate) trait ServedQueue {
    /// Ends the threads; `None` if one panicked.
    fn into_queue(self) -> Option<Queue>;
}

impl<H: Handler> ServedQueue for SerialQueue<H> {
    fn into_queue(self) -> Option<Queue> {
        Some(self.stop()?.0)
    }
}

impl ServedQueue for SharedQueue {
    fn into_queue(self) -> Option<Queue> {
        self.stop()
    }
}

/// A place for each queue of a device, filled while the queue is served.
pub(crate) struct QueueSlots<T> {
    /// The step of starting a queue, for errors.
    what: &'static str,
    slots: Vec<Option<T>>,
}

impl<T: ServedQueue> QueueSlots<T> {
    /// Places for `count` queues. `what` names the start of their threads in errors.
    pub fn new(count: usize, what: &'static str) -> QueueSlots<T> {
        QueueSlots {
            what,
            slots: (0..count).map(|_| None).collect(),
        }
    }

    /// Starts queue `index` by `serve`; see [`Device::start_queue`](super::Device).
    pub fn start(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
        serve: impl FnOnce(Ring) -> io::Result<T>,
    ) -> Result<(), DeviceError> {
        let slot = self.slots.get_mut(index);
        let slot = slot.ok_or(DeviceError::NoQueue(index))?;
        if slot.is_some() {
            return Err(DeviceError::Started(index));
        }
        let ring = Ring::new(index, queue, mem, kick, call)?;
        let what = self.what;
        *slot = Some(serve(ring).map_err(|source| DeviceError::Io { what, source })?);
        Ok(())
    }

    /// Ends serving queue `index`; see [`Device::stop_queue`](super::Device).
    pub fn stop(&mut self, index: usize) -> Option<Queue> {
        self.slots.get_mut(index)?.take()?.into_queue()
    }
}
