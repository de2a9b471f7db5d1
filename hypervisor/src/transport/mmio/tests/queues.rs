//! Queues: made ready, served, paused, reset.

use super::*;

#[test]
fn queue_starts_with_driver_ok() {
    let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX);
    fixture.put(registers::QUEUE_SEL, 1);
    assert_eq!(fixture.get(registers::QUEUE_NUM_MAX), 128);
    fixture.put(registers::QUEUE_SEL, 2);
    assert_eq!(fixture.get(registers::QUEUE_NUM_MAX), 0);

    fixture.set_up(1, 32);
    assert_eq!(fixture.get(registers::QUEUE_READY), 1);
    assert_eq!(fixture.events(), []);
    fixture.put(registers::STATUS, 15);

    assert_eq!(fixture.events(), [start(32, (0, 0))]);
}

#[test]
fn queue_is_not_changed_while_it_is_ready() {
    let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX);

    fixture.set_up(1, 32);
    fixture.put(registers::QUEUE_NUM, 64);
    fixture.put(registers::QUEUE_DESC_LOW, 0x8000);
    fixture.put(registers::QUEUE_READY, 1);
    fixture.put(registers::STATUS, 15);

    assert_eq!(fixture.events(), [start(32, (0, 0))]);
}

#[test]
fn queues_wait_for_the_features() {
    let mut fixture = Fixture::new();
    fixture.put(registers::STATUS, 3);

    fixture.set_up(1, 32);

    assert_eq!(fixture.get(registers::QUEUE_READY), 0);
}

#[test]
fn impossible_queues_need_a_reset() {
    for size in [0, 3, 256, 1 << 16, 1 << 31] {
        let mut fixture = Fixture::with_features(VERSION_1);
        fixture.set_up(1, size);
        assert!(fixture.mmio.needs_reset(), "{size}");
        assert!(!fixture.interrupted());

        // It is signalled once the driver is ready.
        fixture.put(registers::STATUS, 15);
        assert!(fixture.interrupted());
        assert_eq!(fixture.get(registers::STATUS), 15 | status::NEEDS_RESET);
        assert_eq!(fixture.get(registers::INTERRUPT_STATUS), interrupt::CONFIG);
        assert_eq!(fixture.events(), []);
    }

    for area in [registers::QUEUE_DESC_LOW, registers::QUEUE_DEVICE_LOW] {
        let mut fixture = Fixture::with_features(VERSION_1);
        fixture.put(registers::QUEUE_NUM, 32);
        fixture.put(area, 2);
        fixture.put(registers::QUEUE_READY, 1);
        assert!(fixture.mmio.needs_reset(), "{area:#x}");
    }
}

#[test]
fn device_error_needs_a_reset() {
    let mut fixture = Fixture::with_features(VERSION_1);
    fixture.shared.lock().unwrap().refuses = true;

    fixture.set_up(1, 32);
    fixture.put(registers::STATUS, 15);

    assert!(fixture.mmio.needs_reset());
    assert!(fixture.interrupted());
    fixture.put(registers::STATUS, 0);
    assert_eq!(fixture.get(registers::STATUS), 0);
    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), 0);
}

#[test]
fn one_queue_can_be_reset() {
    for (register, value) in [(registers::QUEUE_RESET, 1), (registers::QUEUE_READY, 0)] {
        let mut fixture = Fixture::started();

        fixture.put(register, value);

        assert_eq!(fixture.events(), [Event::Stop(1)]);
        assert_eq!(fixture.get(registers::QUEUE_READY), 0);
        assert_eq!(fixture.get(registers::QUEUE_RESET), 0);
        fixture.set_up(1, 16);
        assert_eq!(fixture.events(), [start(16, (0, 0))]);
    }
}

#[test]
fn queue_reset_is_a_feature() {
    let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX);
    fixture.set_up(1, 32);
    fixture.put(registers::STATUS, 15);

    fixture.put(registers::QUEUE_RESET, 1);

    assert_eq!(fixture.get(registers::QUEUE_READY), 1);
    assert_eq!(fixture.events(), [start(32, (0, 0))]);
}

#[test]
fn pause_keeps_the_positions() {
    let mut fixture = Fixture::started();

    fixture.mmio.pause();
    fixture.mmio.pause();
    assert_eq!(fixture.events(), [Event::Stop(1)]);
    fixture.mmio.resume();
    fixture.mmio.resume();

    assert_eq!(fixture.events(), [start(32, (3, 2))]);
}

#[test]
fn reset_during_a_pause_forgets_the_queue() {
    let mut fixture = Fixture::started();

    fixture.mmio.pause();
    fixture.put(registers::STATUS, 0);
    fixture.mmio.resume();

    assert_eq!(fixture.events(), [Event::Stop(1), Event::Reset]);
}

#[test]
fn queue_made_ready_during_a_pause_waits() {
    let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX);
    fixture.mmio.pause();
    fixture.set_up(1, 32);
    fixture.put(registers::STATUS, 15);
    assert_eq!(fixture.events(), []);

    fixture.mmio.resume();

    assert_eq!(fixture.events(), [start(32, (0, 0))]);
}

#[test]
fn lost_queue_needs_a_reset() {
    let mut fixture = Fixture::started();
    fixture.shared.lock().unwrap().loses = true;

    fixture.mmio.pause();

    assert!(fixture.mmio.needs_reset());
}

#[test]
fn notify_kicks_its_queue() {
    let mut fixture = Fixture::started();

    for index in [0, 1, 2, u32::MAX] {
        fixture.put(registers::QUEUE_NOTIFY, index);
    }

    let unread = fixture.mmio.kicks()[0].read().unwrap_err();
    assert_eq!(
        unread.kind(),
        std::io::ErrorKind::WouldBlock,
        "it is not ready"
    );
    let shared = fixture.shared.lock().unwrap();
    assert_eq!(shared.kicks[1].as_ref().unwrap().read().unwrap(), 1);
}

#[test]
fn addresses_are_set_by_halves_in_any_order() {
    let mut queue = QueueRegisters::new(64);
    for (offset, value) in [
        (registers::QUEUE_DESC_HIGH, 1),
        (registers::QUEUE_DESC_LOW, 0x1000),
        (registers::QUEUE_DRIVER_LOW, 0x2000),
        (registers::QUEUE_DRIVER_HIGH, 2),
        (registers::QUEUE_DEVICE_HIGH, 0xffff_ffff),
        (registers::QUEUE_DEVICE_LOW, 0xffff_ffff),
        (registers::QUEUE_DEVICE_HIGH, 3),
        (registers::QUEUE_DEVICE_LOW, 0x3000),
        (registers::QUEUE_NUM, 16),
        // No register of the queue.
        (registers::QUEUE_DEVICE_HIGH + 4, 7),
    ] {
        queue.write(offset, value);
    }
    for event_idx in [false, true] {
        let ring = queue.queue(event_idx).unwrap();
        let rings = (ring.desc_table(), ring.avail_ring(), ring.used_ring());
        assert_eq!(rings, (0x1_0000_1000, 0x2_0000_2000, 0x3_0000_3000));
        assert_eq!((ring.size(), ring.ready()), (16, true));
        assert_eq!(ring.event_idx_enabled(), event_idx);
    }
    queue.write(registers::QUEUE_NUM, 64);
    assert!(queue.queue(false).is_ok());
    for size in [0, 128, 65536 + 16] {
        queue.write(registers::QUEUE_NUM, size);
        assert!(queue.queue(false).is_err(), "{size}");
    }
}

#[test]
fn a_device_runs_all_queues_that_wait() {
    let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX);
    fixture.set_up(0, 16);
    fixture.set_up(1, 32);
    fixture.put(registers::STATUS, 15);
    let sizes: Vec<_> = fixture
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Start { index, size, .. } => (index, size),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [(0, 16), (1, 32)]);
    fixture.mmio.pause();
    assert_eq!(fixture.events(), [Event::Stop(0), Event::Stop(1)]);
}
