//! A queue with the memory, kick and interrupt to serve it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT,
};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryLoadGuard, GuestMemoryMmap};

use super::{DeviceError, Interrupt, Memory};
use crate::event::EventFd;

/// What every device offers, since [`Ring`] implements it (virtio 1.2 §6).
pub(crate) const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A chain of descriptors in guest memory.
pub(crate) type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// A started queue.
///
/// A driver that breaks the rules of the ring (an available index that jumps, a head
/// outside the table) makes the ring broken: nothing more is taken from it, and no loop
/// on it runs without end.
pub(crate) struct Ring {
    queue: Queue,
    mem: Memory,
    kick: Arc<EventFd>,
    call: Arc<dyn Interrupt>,
    used: bool,
    /// The used index when the driver was last signalled.
    signalled: u16,
    broken: bool,
}

impl Ring {
    /// Takes over a queue. `index` is for the error.
    pub fn new(
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<Ring, DeviceError> {
        if !queue.is_valid(&*mem.memory()) {
            return Err(DeviceError::BadQueue(index));
        }
        Ok(Ring {
            signalled: queue.next_used(),
            queue,
            mem,
            kick: Arc::new(kick),
            call,
            used: false,
            broken: false,
        })
    }

    /// Returns the queue, with its positions.
    pub fn into_queue(self) -> Queue {
        self.queue
    }

    /// Written to by the driver when it made chains available.
    pub fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// Guest memory as it is now.
    pub fn memory(&self) -> GuestMemoryLoadGuard<GuestMemoryMmap> {
        self.mem.memory()
    }

    /// Takes the next available chain.
    pub fn pop<'m>(&mut self, mem: &'m GuestMemoryMmap) -> Option<Chain<'m>> {
        if self.broken {
            return None;
        }
        match self.next_chain(mem) {
            Ok(chain) => chain,
            Err(err) => {
                self.give_up(&err);
                None
            }
        }
    }

    fn next_chain<'m>(
        &mut self,
        mem: &'m GuestMemoryMmap,
    ) -> Result<Option<Chain<'m>>, virtio_queue::Error> {
        for _ in 0..2 {
            match self.queue.iter(mem)?.next() {
                Some(chain) if chain.head_index() < self.queue.size() => return Ok(Some(chain)),
                Some(_) => break,
                None => {}
            }
            if self.queue.avail_idx(mem, Ordering::Acquire)?.0 == self.queue.next_avail() {
                return Ok(None);
            }
            // A chain came meanwhile: the second try finds it.
        }
        // There is a chain; without it the caller would retry without end.
        Err(virtio_queue::Error::InvalidDescriptorIndex)
    }

    /// Number of entries.
    pub fn size(&self) -> usize {
        self.queue.size().into()
    }

    /// Puts the chain taken last back, untouched.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver, with the number of bytes written to it.
    pub fn complete(&mut self, mem: &GuestMemoryMmap, head: u16, len: u32) {
        self.used = true;
        if let Err(err) = self.queue.add_used(mem, head, len) {
            self.give_up(&err);
        }
    }

    /// Returns chains, the driver seeing all of them or none: together they carry one
    /// thing, such as a frame in several buffers.
    pub fn complete_all(&mut self, mem: &GuestMemoryMmap, chains: &[(u16, u32)]) {
        let Some(((head, len), first)) = chains.split_last() else {
            return;
        };
        let (size, start) = (self.queue.size(), self.queue.next_used());
        let mut next = start;
        for (head, len) in first {
            // virtio 1.2 §2.7.8: flags and index, then elements of 8 bytes.
            let at = self.queue.used_ring() + 4 + u64::from(next % size) * 8;
            let element = (u64::from(*len) << 32 | u64::from(*head)).to_le();
            if let Err(err) = mem.write_obj(element, GuestAddress(at)) {
                return self.give_up(&virtio_queue::Error::GuestMemory(err));
            }
            next = next.wrapping_add(1);
        }
        // The last one moves the index past all of them.
        self.queue.set_next_used(next);
        self.complete(mem, *head, *len);
    }

    /// Notifies the driver of the chains returned since the last time, if it wants that.
    pub fn notify(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        match self.wants_interrupt() {
            Ok(true) => self.call.signal(),
            Ok(false) => {}
            Err(err) => self.give_up(&err),
        }
    }

    /// virtio 1.2 §2.7.7. The queue's own check does not account for `complete_all`.
    fn wants_interrupt(&mut self) -> Result<bool, virtio_queue::Error> {
        // What was returned must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let now = self.queue.next_used();
        let signalled = std::mem::replace(&mut self.signalled, now);
        let avail = self.queue.avail_ring();
        let mem = self.mem.memory();
        let read = |at| -> Result<u16, virtio_queue::Error> {
            mem.load(GuestAddress(at), Ordering::Relaxed)
                .map(u16::from_le)
                .map_err(virtio_queue::Error::GuestMemory)
        };
        if self.queue.event_idx_enabled() {
            // The driver's event index lies behind the ring.
            let event = read(avail + 4 + u64::from(self.queue.size()) * 2)?;
            return Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(signalled));
        }
        // Without event indices, flags decide.
        Ok(u32::from(read(avail)?) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks for a kick with the next chain. True if there are chains already, for
    /// which no kick may come.
    pub fn enable_kicks(&mut self) -> bool {
        self.set_kicks(true)
    }

    /// Saves the driver kicks while the queue is being worked on.
    pub fn disable_kicks(&mut self) {
        self.set_kicks(false);
    }

    fn set_kicks(&mut self, on: bool) -> bool {
        if self.broken {
            return false;
        }
        let mem = self.mem.memory();
        let result = if on {
            self.queue.enable_notification(&*mem)
        } else {
            self.queue.disable_notification(&*mem).map(|()| false)
        };
        result.unwrap_or_else(|err| {
            self.give_up(&err);
            false
        })
    }

    fn give_up(&mut self, err: &virtio_queue::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            log::error!("The guest broke a queue, which is no longer served: {err}");
            self.call.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DriverQueue, SIZE, memory};

    /// A ring with four taken chains, the first at `start`.
    fn ring(start: u16) -> (DriverQueue, Ring) {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        driver.begin_at(start);
        for head in 0..4 {
            driver.offer(head);
        }
        let mut queue = driver.queue();
        queue.set_next_avail(start);
        queue.set_next_used(start);
        queue.set_event_idx(true);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let mut ring = Ring::new(0, queue, mem, kick, calls).unwrap();
        let mem = ring.memory();
        for head in 0..4 {
            assert_eq!(ring.pop(&mem).unwrap().head_index(), head);
        }
        (driver, ring)
    }

    #[test]
    fn chains_return_together_and_in_order() {
        // In the middle, around the end of the ring, and around that of the index.
        for start in [0, SIZE - 2, u16::MAX - 1] {
            let (mut driver, mut ring) = ring(start);
            let mem = ring.memory();

            ring.complete_all(&mem, &[]);
            assert_eq!(driver.used(), None);
            ring.complete_all(&mem, &[(0, 10), (1, 11), (2, 12)]);
            ring.complete(&mem, 3, 13);

            for head in 0..4 {
                assert_eq!(driver.used(), Some((head, 10 + head)));
            }
            assert_eq!(driver.used(), None);
            assert_eq!(driver.outstanding(), 0);
        }
    }

    #[test]
    fn interrupt_is_for_any_chain_since_the_last() {
        // The driver asks for an interrupt after one of the chains that return
        // together.
        for (more, wanted) in [(0, 1), (1, 1), (2, 1), (3, 0)] {
            let (driver, mut ring) = ring(u16::MAX - 1);
            driver.interrupt_after(more);
            let mem = ring.memory();

            ring.complete_all(&mem, &[(0, 1), (1, 1), (2, 1)]);
            ring.notify();
            ring.notify();

            assert_eq!(driver.calls.count.load(Ordering::SeqCst), wanted, "{more}");
        }
    }

    /// A ring without event indices, with four taken chains.
    fn flagged() -> (DriverQueue, Ring) {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        (0..4).for_each(|head| driver.offer(head));
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let mut ring = Ring::new(0, driver.queue(), mem, kick, calls).unwrap();
        let mem = ring.memory();
        assert!((0..4).all(|_| ring.pop(&mem).is_some()));
        (driver, ring)
    }

    #[test]
    fn without_event_indices_flags_decide_on_interrupts_and_kicks() {
        let (driver, mut ring) = flagged();
        let mem = ring.memory();
        let calls = || driver.calls.count.load(Ordering::SeqCst);
        ring.complete(&mem, 0, 1);
        ring.notify();
        assert_eq!(calls(), 1);
        // Nothing was returned since.
        ring.notify();
        assert_eq!(calls(), 1);
        // VRING_AVAIL_F_NO_INTERRUPT is 1; other bits have no meaning.
        for (flags, wanted) in [(1, 1), (0xffff, 1), (0xfffe, 2)] {
            driver.set_avail_flags(flags);
            ring.complete(&mem, 1, 1);
            ring.notify();
            assert_eq!(calls(), wanted, "{flags:#x}");
        }
        ring.disable_kicks();
        assert!(!driver.wants_kick(false));
        assert!(!ring.enable_kicks());
        assert!(driver.wants_kick(false));
    }

    #[test]
    fn chains_that_came_meanwhile_are_reported() {
        let (mut driver, mut ring) = flagged();
        let mem = ring.memory();
        assert!(ring.pop(&mem).is_none());
        driver.offer(9);
        assert!(ring.enable_kicks());
        assert_eq!(ring.pop(&mem).unwrap().head_index(), 9);
        assert!(!ring.enable_kicks());
        ring.undo_pop();
        assert_eq!(ring.pop(&mem).unwrap().head_index(), 9);
        assert_eq!(ring.size(), usize::from(SIZE));
        assert_eq!(ring.into_queue().next_avail(), 5);
    }

    #[test]
    fn a_broken_ring_is_reported_once_and_gives_no_more() {
        type Breach = fn(&mut DriverQueue);
        let breaches: [Breach; 3] = [
            |driver| driver.offer(SIZE),
            |driver| driver.offer(u16::MAX),
            |driver| driver.set_avail_index(4 + SIZE + 1),
        ];
        for breach in breaches {
            let (mut driver, mut ring) = flagged();
            let mem = ring.memory();
            breach(&mut driver);
            for _ in 0..3 {
                assert!(ring.pop(&mem).is_none());
                assert!(!ring.enable_kicks());
            }
            let failures = driver.calls.failures.load(Ordering::SeqCst);
            assert_eq!((failures, ring.broken), (1, true));
        }
        // A head of the table is none.
        let (mut driver, mut ring) = flagged();
        driver.offer(SIZE - 1);
        let mem = ring.memory();
        assert_eq!(ring.pop(&mem).unwrap().head_index(), SIZE - 1);
    }

    #[test]
    fn rings_outside_memory_are_refused() {
        let mem = memory();
        let driver = DriverQueue::new(&mem, 0);
        let mut queue = driver.queue();
        let end = crate::virtio::testing::END;
        queue.try_set_used_ring_address(GuestAddress(end)).unwrap();
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let refused = Ring::new(7, queue, mem, kick, calls).err().unwrap();
        assert!(matches!(refused, DeviceError::BadQueue(7)));
        // virtio 1.2 §6: INDIRECT_DESC, EVENT_IDX, VERSION_1.
        assert_eq!(RING_FEATURES, 1 << 28 | 1 << 29 | 1 << 32);
    }
}
