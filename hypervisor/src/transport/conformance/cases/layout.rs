//! Requests in every layout that a driver may choose.

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::rig::Rig;
use super::super::shape::{Shape, Split};

fn every_split<F: Fixture, D: Driver>(indirect: bool) {
    let mut rig = Rig::<F, D>::new();
    let mut cut = 1;
    let mut longest = 2;
    while cut < longest {
        let split = Split::At(cut);
        for _ in 0..F::KINDS {
            let request = rig.fixture.request(&rig.guest);
            let lengths = request.iter().flat_map(|c| [c.readable.len(), c.writable]);
            longest = lengths.fold(longest, usize::max);
            let answers = rig.exchange(&request, Shape { split, indirect });
            rig.fixture.check(&rig.guest, &answers);
        }
        cut += 1;
    }

    // A chain may have as many descriptors as the ring, and so may all chains together.
    let split = Split::Bytes;
    let room = rig.queues.iter().map(|rings| rings.size()).min().unwrap();
    for _ in 0..F::KINDS {
        let request = rig.fixture.request(&rig.guest);
        let lengths = request.iter().map(|c| c.readable.len() + c.writable);
        let taken = match indirect {
            true => lengths.max(),
            false => Some(lengths.sum()),
        };
        if taken.unwrap() <= usize::from(room) {
            let answers = rig.exchange(&request, Shape { split, indirect });
            rig.fixture.check(&rig.guest, &answers);
        }
    }
}

/// Descriptors may end at any byte.
pub fn chains_split_anywhere<F: Fixture, D: Driver>() {
    every_split::<F, D>(false);
}

/// Indirect descriptors may do so, too.
pub fn indirect_chains_split_anywhere<F: Fixture, D: Driver>() {
    every_split::<F, D>(true);
}

/// The rings wrap several times, and so do their indices.
pub fn rings_wrap<F: Fixture, D: Driver>() {
    const AT_ONCE: usize = 8;
    let mut rig = Rig::<F, D>::new();
    rig.reset();
    rig.begin_at(65_500);
    rig.start(rig.features);
    let first = rig.fixture.request(&rig.guest);
    let queue = first.last().unwrap().queue;
    for _ in 0..100 {
        let requests: Vec<_> = (0..AT_ONCE)
            .map(|_| rig.fixture.request(&rig.guest))
            .collect();
        let chains = requests.concat();
        let answers = rig.exchange(&chains, Shape::PLAIN);
        for answers in answers.chunks(first.len()) {
            rig.fixture.check(&rig.guest, answers);
        }
    }
    assert!(rig.queues[queue].avail_index() < 65_500, "not wrapped");
    rig.works();
}
