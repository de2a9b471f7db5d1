//! A device on a transport, with a driver that can make valid requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::driver::Driver;
use super::fixtures::{Answer, Chain, Fixture};
use super::guest::{BUFFERS, Guest, TABLES};
use super::shape::Shape;
use super::watch::{Watch, Watched};
use crate::virtio::testing::{Desc, INDIRECT, NEXT, Rings, WRITE};

/// The deadline; operations are faster, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Entries of the longest ring.
const MAX_SIZE: u16 = 256;
/// The number of places for rings: after a reset, the rings get new addresses.
const SLOTS: u64 = 16;

/// A chain in memory.
pub struct Placed {
    pub queue: usize,
    pub head: u16,
    /// All descriptors except an indirect one.
    pub descs: Vec<Desc>,
    /// Their place: a table's address and the first index in it.
    pub table: (u64, u16),
}

/// See the module.
pub struct Rig<F, D: Driver> {
    pub driver: D,
    pub guest: Guest,
    pub queues: Vec<Rings>,
    pub features: u64,
    pub fixture: F,
    watch: Arc<Watch>,
    first: u16,
    sizes: Vec<u16>,
    /// The place of the next chain: its descriptor in each ring, its table, its bytes.
    next_desc: Vec<u16>,
    next_table: u64,
    next_byte: u64,
    lives: u64,
    /// The transport has given the device up, as it should.
    pub gone: bool,
}

impl<F: Fixture, D: Driver> Rig<F, D> {
    /// A device that runs with all features.
    pub fn new() -> Rig<F, D> {
        let mut rig = Rig::<F, D>::idle();
        let offered = rig.driver.offered();
        rig.start(offered);
        rig
    }

    /// A device that has not been started.
    pub fn idle() -> Rig<F, D> {
        let mut fixture = F::new();
        let guest = Guest::new();
        let (device, watch) = Watched::new(fixture.device());
        let sizes = crate::virtio::Device::queue_sizes(&device).to_vec();
        assert!(sizes.len() as u64 <= SLOTS);
        Rig {
            driver: D::new(Box::new(device), &guest),
            guest,
            queues: Vec::new(),
            features: 0,
            fixture,
            watch,
            first: 0,
            next_desc: vec![0; sizes.len()],
            sizes,
            next_table: TABLES,
            next_byte: BUFFERS,
            lives: 0,
            gone: false,
        }
    }

    /// Negotiates features, sets the queues up and starts them.
    pub fn start(&mut self, features: u64) {
        self.prepare(features);
        self.driver.run();
        self.hello();
    }

    /// All steps before `DRIVER_OK`.
    pub fn prepare(&mut self, features: u64) {
        assert!(features >> VIRTIO_F_VERSION_1 & 1 == 1);
        assert!(self.driver.negotiate(features), "{features:#x} refused");
        self.features = features;
        self.fixture.negotiated(features);
        let first = self.lives % 2 * SLOTS;
        self.lives += 1;
        self.queues = (first..)
            .zip(&self.sizes)
            .map(|(slot, size)| Rings::new(&self.guest.mem, slot, (*size).min(MAX_SIZE)))
            .collect();
        for index in 0..self.queues.len() {
            self.set_up(index);
        }
    }

    /// Sets the start index of queues from now on.
    pub fn begin_at(&mut self, first: u16) {
        self.first = first;
        self.watch.begin_at(first);
    }

    /// Puts a new ring into a queue.
    pub fn set_up(&mut self, index: usize) {
        let rings = &mut self.queues[index];
        rings.clear();
        rings.begin_at(self.first);
        self.driver.set_up(index, rings);
    }

    fn hello(&mut self) {
        if let Some(chain) = self.fixture.hello() {
            self.exchange(&[chain], Shape::PLAIN);
        }
    }

    /// Resets the device and checks that all its threads have ended well.
    pub fn reset(&mut self) {
        let start = Instant::now();
        self.driver.reset();
        assert!(start.elapsed() < LIMIT, "the reset took too long");
        assert_eq!(self.watch.lost(), 0, "a thread of the device panicked");
    }

    /// Resets the device, and checks that it works.
    pub fn recover(&mut self) {
        self.reset();
        self.start(self.features);
        self.works();
    }

    /// Waits until the device's threads are idle, and discards interrupts.
    pub fn calm(&mut self) {
        self.driver.pause();
        self.driver.resume();
        while self.driver.wait(Duration::ZERO) {}
    }

    /// Makes the valid request.
    pub fn works(&mut self) {
        self.works_in(Shape::PLAIN);
    }

    /// Makes the valid request in some layout.
    pub fn works_in(&mut self, shape: Shape) {
        let request = self.fixture.request(&self.guest);
        let answers = self.exchange(&request, shape);
        self.fixture.check(&self.guest, &answers);
    }

    /// Offers chains and waits until all have come back.
    pub fn exchange(&mut self, chains: &[Chain], shape: Shape) -> Vec<Answer> {
        let placed = self.offer_all(chains, shape);
        self.kick_all(chains);
        self.collect(&placed)
    }

    /// Lays chains out and offers them.
    pub fn offer_all(&mut self, chains: &[Chain], shape: Shape) -> Vec<Placed> {
        self.begin();
        let placed: Vec<_> = chains
            .iter()
            .map(|chain| self.place(chain, shape))
            .collect();
        for chain in &placed {
            self.queues[chain.queue].offer(chain.head);
        }
        placed
    }

    /// Places the next chains over the previous ones.
    pub fn begin(&mut self) {
        self.next_desc.fill(0);
        self.next_table = TABLES;
        self.next_byte = BUFFERS;
    }

    /// Kicks the queues of these chains.
    pub fn kick_all(&mut self, chains: &[Chain]) {
        let mut queues: Vec<_> = chains.iter().map(|chain| chain.queue).collect();
        queues.dedup();
        for queue in queues {
            self.driver.kick(queue);
        }
    }

    /// Lays a chain out.
    pub fn place(&mut self, chain: &Chain, shape: Shape) -> Placed {
        let mut descs = Vec::new();
        let mut rest = &chain.readable[..];
        for len in shape.pieces(rest.len()) {
            let (piece, after) = rest.split_at(len);
            self.guest.write(self.next_byte, piece);
            descs.push((self.next_byte, len as u32, 0, 0));
            rest = after;
            // Pieces are not adjacent.
            self.next_byte += len as u64 + 3;
        }
        for len in shape.pieces(chain.writable) {
            self.guest.write(self.next_byte, &vec![0; len]);
            descs.push((self.next_byte, len as u32, WRITE, 0));
            self.next_byte += len as u64 + 3;
        }
        let head = self.next_desc[chain.queue];
        let table = if shape.indirect {
            (self.next_table, 0)
        } else {
            (self.queues[chain.queue].table(), head)
        };
        let last = descs.len().saturating_sub(1);
        for (index, desc) in descs.iter_mut().enumerate() {
            if index < last {
                desc.2 |= NEXT;
                desc.3 = table.1 + index as u16 + 1;
            }
        }
        let mut taken = descs.len();
        if shape.indirect {
            let len = 16 * descs.len() as u32;
            let pointer = (self.next_table, len, INDIRECT, 0);
            self.queues[chain.queue].descriptor(head, pointer);
            self.next_table += u64::from(len);
            taken = 1;
        }
        self.next_desc[chain.queue] += taken as u16;
        assert!(self.next_desc[chain.queue] <= self.queues[chain.queue].size());
        let placed = Placed {
            queue: chain.queue,
            head,
            descs,
            table,
        };
        self.write_descs(&placed);
        placed
    }

    /// Writes a chain's descriptors.
    pub fn write_descs(&self, chain: &Placed) {
        let (table, first) = chain.table;
        for (index, desc) in (first..).zip(&chain.descs) {
            self.queues[chain.queue].descriptor_at(table, index, *desc);
        }
    }

    /// Waits until the chains have come back, in any order.
    pub fn collect(&mut self, placed: &[Placed]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = placed.iter().map(|_| None).collect();
        for index in 0..placed.len() {
            let queue = placed[index].queue;
            let (head, len) = self.wait_used(queue);
            let which = placed.iter().zip(&answers).position(|(chain, answer)| {
                chain.queue == queue && u32::from(chain.head) == head && answer.is_none()
            });
            let which = which.expect("a chain came back that was not offered");
            let room: Vec<u8> = placed[which]
                .descs
                .iter()
                .filter(|desc| desc.2 & WRITE != 0)
                .flat_map(|desc| self.guest.read(desc.0, desc.1 as usize))
                .collect();
            assert!(len as usize <= room.len(), "more was written than is room");
            answers[which] = Some(Answer { len, room });
        }
        answers.into_iter().flatten().collect()
    }

    /// Waits until a chain comes back.
    pub fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        loop {
            let rings = &mut self.queues[queue];
            rings.interrupt_after(0);
            if let Some(used) = rings.used() {
                return used;
            }
            self.wait(&format!("a chain of queue {queue}"));
            assert!(!self.driver.failed(), "queue {queue} is broken");
        }
    }

    /// Waits until the device is idle or has given up; returns whether it has given up.
    pub fn wait_until_idle(&mut self) -> bool {
        loop {
            for rings in &mut self.queues {
                rings.skip_used();
                rings.interrupt_after(0);
            }
            if self.queues.iter_mut().any(|rings| rings.used().is_some()) {
                // The chain may have come before the request for an interrupt was seen.
                continue;
            }
            let outstanding: Vec<_> = self.queues.iter().map(Rings::outstanding).collect();
            if self.driver.failed() {
                return true;
            }
            if self.fixture.may_be_idle(&outstanding) {
                return false;
            }
            self.wait(&format!("the device, which has {outstanding:?} chains"));
        }
    }

    /// Waits until the device gives up a ring.
    pub fn wait_failed(&mut self) {
        while !self.driver.failed() {
            self.wait("the device to give up");
        }
    }

    /// Whether a queue lacks room for a few more chains.
    pub fn is_full(&self) -> bool {
        let full = |rings: &Rings| rings.outstanding() + 8 > rings.size();
        self.queues.iter().any(full)
    }

    fn wait(&mut self, what: &str) {
        assert!(self.driver.wait(LIMIT), "waited too long for {what}");
    }
}

impl<F, D: Driver> Drop for Rig<F, D> {
    fn drop(&mut self) {
        if !self.gone && !std::thread::panicking() {
            self.driver.reset();
            assert_eq!(self.watch.lost(), 0, "a thread of the device panicked");
        }
    }
}
