//! Start, pause and reset during requests.

use super::super::driver::Driver;
use super::super::fixtures::{Chain, Fixture};
use super::super::rig::Rig;
use super::super::shape::Shape;

/// As many requests as the rings can hold, up to a small limit.
fn many<F: Fixture, D: Driver>(rig: &mut Rig<F, D>) -> Vec<Chain> {
    (0..8)
        .flat_map(|_| rig.fixture.request(&rig.guest))
        .collect()
}

/// No request is served before `DRIVER_OK`; earlier requests are served then.
pub fn requests_wait_for_driver_ok<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::idle();
    let features = rig.driver.offered();
    rig.prepare(features);
    let chains = match rig.fixture.hello() {
        Some(chain) => vec![chain],
        None => rig.fixture.request(&rig.guest),
    };
    let placed = rig.offer_all(&chains, Shape::PLAIN);
    rig.kick_all(&chains);
    assert!(!rig.driver.wait(std::time::Duration::from_millis(5)));
    for chain in &placed {
        assert_eq!(rig.queues[chain.queue].used_index(), 0);
    }

    rig.driver.run();

    rig.collect(&placed);
    rig.works();
}

/// A reset ends requests in flight, and the device works afterwards.
pub fn reset_in_the_middle_of_requests<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    for round in 0..24 {
        let chains = many(&mut rig);
        let placed = rig.offer_all(&chains, Shape::PLAIN);
        rig.kick_all(&chains);
        if round % 3 == 1 {
            rig.wait_used(placed[0].queue);
        }
        rig.reset();
        let old: Vec<_> = rig.queues.iter().map(|rings| rings.used_index()).collect();
        let queues = std::mem::take(&mut rig.queues);

        // The new rings have other addresses.
        rig.start(rig.features);
        rig.works();

        for (rings, old) in queues.iter().zip(old) {
            assert_eq!(rings.used_index(), old, "it works on an old ring");
        }
    }
}

/// A queue that is reset starts empty.
pub fn queue_reset<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    rig.works();
    for busy in [false, true, true, true] {
        let chains = many(&mut rig);
        if busy {
            rig.offer_all(&chains, Shape::PLAIN);
            rig.kick_all(&chains);
        }
        for index in 0..rig.queues.len() {
            rig.driver.reset_queue(index);
        }
        for index in 0..rig.queues.len() {
            rig.set_up(index);
        }
        rig.driver.run();
        if !busy {
            rig.works();
        }
    }
    rig.recover();
}

/// A pause keeps the positions; chains offered meanwhile are served after it.
pub fn pause_keeps_requests<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    rig.works();
    for _ in 0..5 {
        rig.driver.pause();
        let chains = rig.fixture.request(&rig.guest);
        let placed = rig.offer_all(&chains, Shape::PLAIN);
        rig.kick_all(&chains);
        for chain in &chains {
            let rings = &rig.queues[chain.queue];
            assert!(rings.outstanding() > 0, "served during a pause");
        }
        rig.driver.resume();
        let answers = rig.collect(&placed);
        rig.fixture.check(&rig.guest, &answers);
    }
    // With requests in flight.
    for _ in 0..5 {
        let chains = many(&mut rig);
        let placed = rig.offer_all(&chains, Shape::PLAIN);
        rig.kick_all(&chains);
        rig.driver.pause();
        rig.driver.resume();
        rig.collect(&placed);
    }
    rig.works();
}
