//! The entropy device (virtio 1.2 §5.4): the host's getrandom(2).

use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

use super::ring::Chain;
use super::{
    Device, DeviceError, DeviceKind, Handler, Interrupt, Memory, QueueSlots, RING_FEATURES,
    SerialQueue,
};
use crate::event::EventFd;

/// A guest asks for a few bytes at a time, and has one request in flight.
const QUEUE_SIZE: u16 = 64;
/// The most bytes for a request; the rest of its buffers is unchanged (§5.4.6.2: the device
/// places one or more random bytes). It bounds the time of a request.
const MAX_REQUEST: usize = 64 << 10;

/// An entropy device.
pub struct Rng {
    queues: QueueSlots<SerialQueue<Entropy>>,
}

impl Rng {
    /// A device that draws from the host's random number generator.
    pub fn new() -> Rng {
        Rng {
            queues: QueueSlots::new(1, "start the rng thread"),
        }
    }
}

impl Default for Rng {
    fn default() -> Rng {
        Rng::new()
    }
}

impl Device for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// §5.4.4: the configuration is empty.
    fn read_config(&self, _offset: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        self.queues.start(index, queue, mem, kick, call, |ring| {
            SerialQueue::start("rng", ring, Entropy)
        })
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.queues.stop(index)
    }

    fn reset(&mut self) {}
}

struct Entropy;

impl Handler for Entropy {
    /// Fills the buffers up to the first that is outside guest memory or not writable.
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        let mut done = 0;
        for desc in chain {
            if !desc.is_write_only() {
                break;
            }
            let wanted = (desc.len() as usize).min(MAX_REQUEST - done);
            let mut filled = 0;
            for piece in mem.get_slices(desc.addr(), wanted) {
                match piece {
                    Ok(piece) => filled += fill(&piece),
                    Err(_) => break,
                }
            }
            done += filled;
            if filled < wanted || done == MAX_REQUEST {
                break;
            }
        }
        done as u32
    }
}

/// Fills guest memory with random bytes; returns how many, which is less than all
/// only when the memory cannot be written to.
fn fill(piece: &VolatileSlice<'_>) -> usize {
    let guard = piece.ptr_guard_mut();
    let mut done = 0;
    while done < piece.len() {
        // SAFETY: the range lies in guest memory that `piece` borrows, so it stays mapped
        // during the call. The guest may change its content, which is bytes to us.
        let count = unsafe {
            libc::getrandom(
                guard.as_ptr().add(done).cast(),
                piece.len() - done,
                0, // blocks only before the host's generator is seeded, at its boot
            )
        };
        match usize::try_from(count) {
            Ok(count) => done += count,
            Err(_) if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
            Err(_) => {
                log::debug!("No random bytes: {}", nix::errno::Errno::last());
                break;
            }
        }
    }
    done
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz {
    use super::Entropy;
    use crate::fuzz::{Checked, drive};

    /// The entropy device.
    pub fn rng(bytes: &[u8]) {
        drive(bytes, vec![Checked(Entropy)], |_| {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DriverQueue, END, NEXT, WRITE, memory};

    const BUFFER: u64 = 1 << 20;

    struct Driver {
        device: Rng,
        mem: Memory,
        queue: DriverQueue,
    }

    impl Driver {
        fn new() -> Driver {
            let mem = memory();
            let queue = DriverQueue::new(&mem, 0);
            let mut driver = Driver {
                device: Rng::new(),
                mem,
                queue,
            };
            driver.start(driver.queue.queue());
            driver
        }

        fn start(&mut self, queue: Queue) {
            let (kick, calls) = (self.queue.kick_event(), self.queue.calls.clone());
            self.device
                .start_queue(0, queue, self.mem.clone(), kick, calls)
                .unwrap();
        }

        /// The number of bytes that the device gives to the chain at 0.
        fn request(&mut self) -> usize {
            self.queue.offer(0);
            self.queue.kick();
            let (head, len) = self.queue.wait_used();
            assert_eq!(head, 0);
            len as usize
        }

        /// Whether the bytes look random: so many zeroes have no chance to occur.
        fn random(&self, address: u64, len: usize) -> bool {
            let bytes = self.queue.read(address, len);
            bytes.iter().filter(|byte| **byte == 0).count() < len / 8
        }
    }

    #[test]
    fn buffers_are_filled_and_no_more() {
        let mut driver = Driver::new();
        driver.queue.descriptor(0, (BUFFER, 100, NEXT | WRITE, 1));
        driver.queue.descriptor(1, (BUFFER + 200, 100, WRITE, 0));

        assert_eq!(driver.request(), 200);

        assert!(driver.random(BUFFER, 100));
        assert_eq!(driver.queue.read(BUFFER + 100, 100), [0; 100]);
        assert!(driver.random(BUFFER + 200, 100));
        assert_eq!(driver.queue.read(BUFFER + 300, 100), [0; 100]);
    }

    #[test]
    fn goes_on_after_a_pause() {
        let mut driver = Driver::new();
        driver.queue.descriptor(0, (BUFFER, 64, WRITE, 0));
        assert_eq!(driver.request(), 64);

        let queue = driver.device.stop_queue(0).unwrap();
        assert!(driver.device.stop_queue(0).is_none());
        driver.start(queue);

        assert_eq!(driver.request(), 64);
    }

    #[test]
    fn huge_request_is_cut() {
        let mut driver = Driver::new();
        let len = u32::MAX;
        driver.queue.descriptor(0, (BUFFER, len, NEXT | WRITE, 1));
        driver.queue.descriptor(1, (BUFFER, len, WRITE, 0));

        assert_eq!(driver.request(), MAX_REQUEST);

        assert!(driver.random(BUFFER, MAX_REQUEST));
        let after = driver.queue.read(BUFFER + MAX_REQUEST as u64, 64);
        assert_eq!(after, [0; 64]);
    }

    #[test]
    fn bad_buffers_get_nothing() {
        let mut driver = Driver::new();
        let cases: [((u64, u32, u16, u16), usize); 6] = [
            ((BUFFER, 64, 0, 0), 0),
            ((BUFFER, 0, WRITE, 0), 0),
            ((END, 64, WRITE, 0), 0),
            ((u64::MAX - 8, 64, WRITE, 0), 0),
            ((END - 16, 64, WRITE, 0), 16),
            // A chain that loops is as long as the ring.
            ((BUFFER, 1, NEXT | WRITE, 0), 64),
        ];
        for (desc, len) in cases {
            driver.queue.descriptor(0, desc);
            assert_eq!(driver.request(), len, "{desc:x?}");
        }
        assert_eq!(driver.queue.read(BUFFER + 1, 63), [0; 63]);
    }

    #[test]
    fn a_readable_buffer_ends_the_answer() {
        let mut driver = Driver::new();
        driver.queue.descriptor(0, (BUFFER, 8, NEXT | WRITE, 1));
        driver.queue.descriptor(1, (BUFFER + 8, 8, NEXT, 2));
        driver.queue.descriptor(2, (BUFFER + 16, 8, WRITE, 0));

        assert_eq!(driver.request(), 8);

        assert_eq!(driver.queue.read(BUFFER + 8, 16), [0; 16]);
    }
}
