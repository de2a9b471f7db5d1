//! Suppressed interrupts and kicks, virtio 1.2 §2.7.7 and §2.7.10.

use std::time::{Duration, Instant};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::rig::{LIMIT, Rig};
use super::super::shape::Shape;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// Flag of the available ring.
const NO_INTERRUPT: u16 = 1;

/// Makes a request and polls for its end, without an interrupt.
fn request_unheard<F: Fixture, D: Driver>(rig: &mut Rig<F, D>) {
    let chains = rig.fixture.request(&rig.guest);
    let placed = rig.offer_all(&chains, Shape::PLAIN);
    rig.kick_all(&chains);
    let start = Instant::now();
    for chain in &placed {
        while rig.queues[chain.queue].used().is_none() {
            assert!(start.elapsed() < LIMIT, "the request is not answered");
            std::thread::yield_now();
        }
    }
    // The device's threads have ended: no further interrupt can come.
    rig.driver.pause();
    rig.driver.resume();
}

fn interrupted<F: Fixture, D: Driver>(rig: &mut Rig<F, D>) -> bool {
    rig.driver.wait(Duration::ZERO)
}

/// The flag of the available ring suppresses interrupts.
pub fn interrupts_can_be_suppressed<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    let features = rig.features & !EVENT_IDX;
    rig.reset();
    rig.start(features);
    rig.calm();

    for _ in 0..3 {
        for rings in &rig.queues {
            rings.set_avail_flags(NO_INTERRUPT);
        }
        request_unheard(&mut rig);
        assert!(!interrupted(&mut rig), "not wanted");
        for rings in &rig.queues {
            rings.set_avail_flags(0);
        }
        request_unheard(&mut rig);
        assert!(interrupted(&mut rig), "wanted");
    }
}

/// With event indices, an interrupt comes with the requested chain: that of the third request.
pub fn event_index_selects_the_interrupt<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    if rig.features & EVENT_IDX == 0 {
        return;
    }
    for _ in 0..3 {
        let request = rig.fixture.request(&rig.guest);
        for (index, rings) in rig.queues.iter().enumerate() {
            let chains = request.iter().filter(|chain| chain.queue == index);
            rings.interrupt_after(2 * chains.count() as u16);
        }
        rig.calm();
        for wanted in [false, false, true, false] {
            request_unheard(&mut rig);
            assert_eq!(interrupted(&mut rig), wanted);
        }
    }
}

/// A kick is needed only when the device has requested one.
pub fn kicks_only_when_asked_for<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    for features in [rig.features, rig.features & !EVENT_IDX] {
        rig.reset();
        rig.start(features);
        for _ in 0..300 {
            let chains = rig.fixture.request(&rig.guest);
            rig.begin();
            let mut placed = Vec::new();
            for chain in &chains {
                let chain = rig.place(chain, Shape::PLAIN);
                let rings = &mut rig.queues[chain.queue];
                rings.offer(chain.head);
                if rings.wants_kick(features & EVENT_IDX != 0) {
                    rig.driver.kick(chain.queue);
                }
                placed.push(chain);
            }
            let answers = rig.collect(&placed);
            rig.fixture.check(&rig.guest, &answers);
        }
    }
}
