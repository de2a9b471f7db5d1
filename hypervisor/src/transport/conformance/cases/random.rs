//! Rings with random content, some of it almost valid.

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::guest::{BUFFERS, END, HOLE, TABLES};
use super::super::rig::Rig;
use super::hostile::Note;
use crate::virtio::testing::Desc;

const RINGS: u64 = 10_000;
/// The number of descriptors written for each ring.
const DESCS: u16 = 16;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn desc(&mut self, wild: bool) -> Desc {
        let near = BUFFERS + self.below(256);
        let far = [
            near,
            near,
            near,
            END - 8,
            HOLE - 8,
            HOLE + 8,
            u64::MAX - 7,
            END,
        ];
        let address = match wild && self.one_in(2) {
            // The rings themselves.
            true => self.below(1 << 20),
            false => self.pick(&far),
        };
        let usual = self.below(128) as u32;
        let len = self.pick(&[usual, usual, usual, 0, 1, 16, 4096, 65536, u32::MAX]);
        let flags = match self.below(16) {
            0 => self.next() as u16,
            1 => 4,
            _ => self.below(4) as u16,
        };
        let next = match self.below(32) {
            0 => self.next() as u16,
            _ => self.below(DESCS.into()) as u16,
        };
        match flags & 4 {
            0 => (address, len, flags, next),
            _ => (TABLES + self.below(8) * 16, len & !15, flags, next),
        }
    }
}

/// With any content in the rings, the device answers or gives up, stops in time, and works
/// after a reset.
pub fn malformed_rings<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    for seed in 0..RINGS {
        let note = Note(format!("seed {seed}"));
        // Writes to the rings themselves are rare, since each requires a reset.
        let wild = seed % 100 == 0;
        let broken = fill_rings(&mut rig, seed, wild);
        if wild || broken || rig.wait_until_idle() || rig.is_full() {
            rig.reset();
            rig.start(rig.features);
            if seed % 8 == 0 {
                rig.works();
            }
        }
        drop(note);
    }
    rig.recover();
}

/// A few rings that follow the rules of the ring.
pub fn some_rings<F: Fixture, D: Driver>(rig: &mut Rig<F, D>) {
    for seed in RINGS..RINGS + 10 {
        if fill_rings(rig, seed, false) || rig.wait_until_idle() {
            return;
        }
    }
}

/// Writes random buffers and rings; true if a ring was broken on purpose.
fn fill_rings<F: Fixture, D: Driver>(rig: &mut Rig<F, D>, seed: u64, wild: bool) -> bool {
    let mut random = Random(seed);
    fill_buffers(rig, &mut random);
    let queues = rig.queues.len();
    let mut broken = false;
    for queue in 0..queues {
        if queues == 1 || random.one_in(2) {
            broken |= fill_ring(rig, queue, &mut random, wild);
            rig.driver.kick(queue);
        }
    }
    broken
}

/// Writes a valid request's bytes, with a few of them changed.
fn fill_buffers<F: Fixture, D: Driver>(rig: &mut Rig<F, D>, random: &mut Random) {
    let request = rig.fixture.request(&rig.guest);
    let mut bytes: Vec<u8> = request.into_iter().flat_map(|c| c.readable).collect();
    bytes.resize(bytes.len() + 64, 0);
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = match random.below(3) {
            0 => random.next() as u8,
            _ => random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        };
    }
    rig.guest.write(BUFFERS, &bytes);
}

/// Offers a few chains of random descriptors; true if the ring was broken on purpose.
fn fill_ring<F: Fixture, D: Driver>(
    rig: &mut Rig<F, D>,
    queue: usize,
    random: &mut Random,
    wild: bool,
) -> bool {
    let rings = &mut rig.queues[queue];
    for index in 0..DESCS {
        rings.descriptor(index, random.desc(wild));
        rings.descriptor_at(TABLES, index, random.desc(wild));
    }
    for _ in 0..=random.below(4) {
        rings.offer(random.below(DESCS.into()) as u16);
    }
    match random.below(400) {
        0 => rings.offer(random.next() as u16 | 0x4000),
        1 => rings.set_avail_index(random.next() as u16),
        _ => return false,
    }
    true
}
