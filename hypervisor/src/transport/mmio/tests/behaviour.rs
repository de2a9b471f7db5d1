//! Status, features, interrupts, the configuration space.

use super::*;

#[test]
fn device_is_recognised() {
    let mut fixture = Fixture::new();

    let words = [0, 4, 8, 12].map(|offset| fixture.get(offset));

    assert_eq!(
        words,
        [u32::from_le_bytes(*b"virt"), 2, 4, registers::VENDOR]
    );
    let mut empty = [0xff; 4];
    read_empty(registers::DEVICE_ID, &mut empty);
    assert_eq!(empty, [0; 4]);
    read_empty(registers::MAGIC_VALUE, &mut empty);
    assert_eq!(&empty, b"virt");
}

#[test]
fn features_are_offered_by_halves() {
    let mut fixture = Fixture::new();
    let mut halves = [0, 1, 2, u32::MAX].map(|select| {
        fixture.put(registers::DEVICE_FEATURES_SEL, select);
        fixture.get(registers::DEVICE_FEATURES)
    });
    halves[..2].reverse();

    let all = VERSION_1 | EVENT_IDX | INDIRECT | RING_RESET;
    assert_eq!(halves, [(all >> 32) as u32, all as u32, 0, 0]);
}

#[test]
fn offered_features_are_accepted_and_passed_to_the_device() {
    let mut fixture = Fixture::new();

    fixture.offer(VERSION_1 | EVENT_IDX | RING_RESET);

    assert!(fixture.accepted());
    // The ring reset feature belongs to the transport.
    let events = [Event::Reset, Event::Features(VERSION_1 | EVENT_IDX)];
    assert_eq!(fixture.events(), events);
    fixture.put(registers::DRIVER_FEATURES, 0);
    fixture.put(registers::STATUS, 15);
    assert_eq!(fixture.get(registers::STATUS), 15);
}

#[test]
fn other_features_are_not_accepted() {
    let mut fixture = Fixture::new();

    for features in [0, EVENT_IDX, VERSION_1 | 1, VERSION_1 | 1 << 63] {
        fixture.offer(features);
        assert_eq!(fixture.get(registers::STATUS), 3, "{features:#x}");
        fixture.put(registers::STATUS, 15);
        assert_eq!(fixture.get(registers::STATUS), 3, "{features:#x}");
    }

    // Features beyond 64 bits count as well.
    fixture.put(registers::DRIVER_FEATURES_SEL, 3);
    fixture.put(registers::DRIVER_FEATURES, 1);
    fixture.put(registers::DRIVER_FEATURES_SEL, 1);
    fixture.put(registers::DRIVER_FEATURES, 1);
    fixture.put(registers::STATUS, 11);
    assert_eq!(fixture.get(registers::STATUS), 3);
    let events = fixture.events();
    assert!(
        events.iter().all(|event| *event == Event::Reset),
        "{events:?}"
    );
}

#[test]
fn status_goes_forward_in_order() {
    let mut fixture = Fixture::new();
    for wrong in [2, 4, 8, 10, 16, 0x100, 64] {
        fixture.put(registers::STATUS, wrong);
        assert_eq!(fixture.get(registers::STATUS), 0, "{wrong:#x}");
    }
    fixture.put(registers::STATUS, 3);
    for wrong in [1, 2, 7, 5] {
        fixture.put(registers::STATUS, wrong);
        assert_eq!(fixture.get(registers::STATUS), 3, "{wrong:#x}");
    }
    fixture.put(registers::STATUS, 3 | status::FAILED);
    assert_eq!(fixture.get(registers::STATUS), 3 | status::FAILED);
}

#[test]
fn broken_ring_needs_a_reset() {
    let mut fixture = Fixture::started();

    fixture.call(1).failed();

    assert!(fixture.interrupted());
    assert_eq!(fixture.mmio.status(), 15 | status::NEEDS_RESET);
    // A driver may write back the value that it read.
    fixture.put(registers::STATUS, 15 | status::NEEDS_RESET | status::FAILED);
    let all = 15 | status::NEEDS_RESET | status::FAILED;
    assert_eq!(fixture.get(registers::STATUS), all);
}

#[test]
fn interrupts_are_pending_until_acknowledged() {
    let mut fixture = Fixture::started();

    fixture.call(1).signal();
    assert!(fixture.interrupted());
    fixture.config_changed().signal();
    assert!(fixture.interrupted());

    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), 3);
    fixture.put(registers::INTERRUPT_ACK, interrupt::USED);
    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), interrupt::CONFIG);
    fixture.put(registers::INTERRUPT_ACK, u32::MAX);
    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), 0);
    assert!(!fixture.interrupted());
}

#[test]
fn change_before_driver_ok_is_signalled_with_it() {
    let mut fixture = Fixture::with_features(VERSION_1);
    fixture.config_changed().signal();
    assert!(!fixture.interrupted());

    fixture.put(registers::STATUS, 15);

    assert!(fixture.interrupted());
    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), interrupt::CONFIG);
}

#[test]
fn reset_stops_and_forgets() {
    let mut fixture = Fixture::started();
    fixture.call(1).signal();
    fixture.put(registers::QUEUE_NOTIFY, 1);

    fixture.put(registers::STATUS, 0);

    assert_eq!(fixture.events(), [Event::Stop(1), Event::Reset]);
    assert_eq!(fixture.get(registers::STATUS), 0);
    assert_eq!(fixture.get(registers::INTERRUPT_STATUS), 0);
    let old = fixture.mmio.kicks()[1].read().unwrap_err();
    assert_eq!(old.kind(), std::io::ErrorKind::WouldBlock);
    fixture.put(registers::QUEUE_SEL, 1);
    assert_eq!(fixture.get(registers::QUEUE_READY), 0);
    fixture.offer(VERSION_1 | EVENT_IDX);
    fixture.events();
    fixture.set_up(1, 16);
    fixture.put(registers::STATUS, 15);
    assert_eq!(fixture.events(), [start(16, (0, 0))]);
}

#[test]
fn config_is_read_and_written_in_any_width() {
    let mut fixture = Fixture::with_features(VERSION_1);
    fixture.shared.lock().unwrap().config = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut read = |offset, width| {
        let mut data = [0xff; 8];
        fixture.mmio.read(offset, &mut data[..width]);
        data[..width].to_vec()
    };

    assert_eq!(read(0x100, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read(0x103, 1), [4]);
    assert_eq!(read(0x106, 4), [7, 8, 0, 0]);
    assert_eq!(read(0xffc, 4), [0; 4]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
    fixture.mmio.write(0x105, &[9, 8]);
    assert_eq!(fixture.events(), [Event::Write(5, vec![9, 8])]);
}

#[test]
fn config_is_not_written_before_the_features() {
    let mut fixture = Fixture::new();
    fixture.put(registers::STATUS, 3);

    fixture.put(registers::CONFIG, 1);

    assert_eq!(fixture.events(), []);
}

#[test]
fn generation_changes_with_the_config() {
    let mut fixture = Fixture::new();
    let before = fixture.get(registers::CONFIG_GENERATION);
    assert_eq!(fixture.get(registers::CONFIG_GENERATION), before);

    fixture.shared.lock().unwrap().config[7] = 1;

    let after = fixture.get(registers::CONFIG_GENERATION);
    assert_ne!(after, before);
    assert_eq!(fixture.get(registers::CONFIG_GENERATION), after);
}

#[test]
fn registers_are_words() {
    let mut fixture = Fixture::started();
    for width in [1, 2, 3, 8] {
        let mut data = [0xff; 8];
        fixture.mmio.read(registers::STATUS, &mut data[..width]);
        assert_eq!(data[..width], [0; 8][..width]);
        fixture.mmio.write(registers::STATUS, &[0; 8][..width]);
    }
    for offset in [registers::STATUS + 1, registers::STATUS - 2, 0x88, 0xfd] {
        fixture.put(offset, 0);
    }
    assert_eq!(fixture.get(registers::STATUS + 2), 0);

    assert_eq!(fixture.get(registers::STATUS), 15);
    assert_eq!(fixture.events(), []);
}

#[test]
fn there_is_no_shared_memory() {
    let mut fixture = Fixture::new();

    fixture.put(registers::SHM_SEL, 0);

    for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(fixture.get(offset), u32::MAX, "{offset:#x}");
    }
}

/// Accesses every register with every kind of value, in an order that depends on a seed.
#[test]
fn no_access_does_harm() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut fixture = Fixture::new();
    let values = [0, 1, 2, 3, 11, 15, 32, 64, u32::MAX, END as u32, 0x4000];
    for _ in 0..200_000 {
        let offset = match random() % 8 {
            0 => random() % SLOT_SIZE,
            1 => registers::STATUS,
            _ => random() % 64 * 4,
        };
        let value = values[random() as usize % values.len()];
        if random() % 4 == 0 {
            fixture.get(offset);
        } else {
            fixture.put(offset, value);
        }
        fixture.events();
    }
    fixture.offer(VERSION_1);
    assert!(fixture.accepted());
}

/// The guest can fill neither the log nor a counter.
#[test]
fn warnings_end_after_a_few() {
    let mut fixture = Fixture::new();
    for _ in 0..100 {
        fixture.put(0xfe, 0);
    }
    assert_eq!(fixture.mmio.warnings, 16);
}

#[test]
fn drivers_that_keep_to_the_rules_are_not_warned_of() {
    let mut fixture = Fixture::started();
    fixture.put(registers::QUEUE_NOTIFY, 1);
    fixture.put(registers::QUEUE_RESET, 1);
    fixture.put(registers::INTERRUPT_ACK, 3);
    fixture.put(registers::CONFIG, 7);
    fixture.put(registers::STATUS, 0);
    // Linux releases a device so.
    for queue in 0..2 {
        fixture.put(registers::QUEUE_SEL, queue);
        fixture.put(registers::QUEUE_READY, 0);
    }
    assert_eq!(fixture.mmio.warnings, 0);
}

#[test]
fn each_breach_of_the_rules_is_warned_of_once() {
    type Breach = fn(&mut Fixture);
    let breaches: [Breach; 12] = [
        |fixture| fixture.put(registers::QUEUE_READY, 1),
        |fixture| fixture.put(registers::QUEUE_NUM, 0),
        |fixture| fixture.put(registers::QUEUE_RESET, 1),
        |fixture| fixture.put(registers::DRIVER_FEATURES, 0),
        |fixture| fixture.put(registers::CONFIG, 0),
        |fixture| fixture.put(registers::QUEUE_NOTIFY, 0),
        |fixture| fixture.put(registers::QUEUE_NOTIFY, 2),
        |fixture| fixture.put(registers::STATUS, 2),
        |fixture| fixture.put(registers::MAGIC_VALUE, 0),
        |fixture| fixture.mmio.read(registers::STATUS, &mut [0; 2]),
        |fixture| fixture.mmio.write(registers::STATUS, &[0; 2]),
        |fixture| {
            fixture.put(registers::STATUS, 3);
            fixture.put(registers::DRIVER_FEATURES_SEL, 4);
            fixture.put(registers::DRIVER_FEATURES, 0);
        },
    ];
    for (number, breach) in breaches.into_iter().enumerate() {
        let mut fixture = Fixture::new();
        fixture.put(registers::STATUS, 1);
        breach(&mut fixture);
        assert_eq!(fixture.mmio.warnings, 1, "{number}");
    }
}

#[test]
fn features_are_taken_word_by_word_and_only_between_driver_and_features_ok() {
    let mut fixture = Fixture::new();
    let put = |fixture: &mut Fixture, select, value| {
        fixture.put(registers::DRIVER_FEATURES_SEL, select);
        fixture.put(registers::DRIVER_FEATURES, value);
    };
    put(&mut fixture, 0, 1);
    assert_eq!(fixture.mmio.driver_features, 0, "too early");
    fixture.put(registers::STATUS, 1);
    put(&mut fixture, 0, 1);
    assert_eq!(fixture.mmio.driver_features, 0, "too early");
    fixture.put(registers::STATUS, 3);
    for (select, value) in [
        (0, 0xaaaa),
        (1, 0xbbbb),
        (2, 0xcccc),
        (3, 0xdddd),
        (0, 0x1111),
    ] {
        put(&mut fixture, select, value);
    }
    let words = 0xdddd << 96 | 0xcccc << 64 | 0xbbbb << 32 | 0x1111;
    assert_eq!(fixture.mmio.driver_features, words);
    put(&mut fixture, 2, 0);
    put(&mut fixture, 3, 0);
    put(&mut fixture, 0, EVENT_IDX as u32);
    put(&mut fixture, 1, 1);
    fixture.put(registers::STATUS, 11);
    assert!(fixture.accepted());
    put(&mut fixture, 0, 0);
    assert_eq!(fixture.mmio.driver_features, 1 << 32 | 1 << 29, "too late");
}

#[test]
fn statuses_that_a_driver_may_set_are_these() {
    for before in [0, 1, 3, 11, 15] {
        for value in 1..=u32::from(u8::MAX) {
            let mut fixture = Fixture::new();
            for step in [1, 3] {
                if step <= before {
                    fixture.put(registers::STATUS, step);
                }
            }
            if before > 3 {
                fixture.offer(VERSION_1);
                fixture.put(registers::STATUS, before);
            } else {
                fixture.mmio.driver_features = VERSION_1.into();
            }
            assert_eq!(fixture.mmio.status(), before);

            fixture.put(registers::STATUS, value);

            // §2.1: no bit is cleared but by a reset, each step includes those before it, and
            // NEEDS_RESET (64), which the driver may write back, is the device's.
            let steps = value & 15;
            let known = value & 0b0011_0000 == 0 && [0, 1, 3, 11, 15].contains(&steps);
            let kept = known && before & !value == 0;
            let expected = if kept { value & !64 } else { before };
            assert_eq!(
                fixture.mmio.status(),
                expected,
                "{value:#x} after {before:#x}"
            );
        }
    }
}

#[test]
fn a_generation_counts_changes_even_beyond_the_largest_number() {
    let mut fixture = Fixture::new();
    fixture.mmio.generation = u32::MAX;
    fixture.shared.lock().unwrap().config[0] = 1;
    assert_eq!(fixture.get(registers::CONFIG_GENERATION), 0);
    assert_eq!(fixture.get(registers::CONFIG_GENERATION), 0);
}

#[test]
fn an_empty_slot_has_the_numbers_of_a_slot_and_no_device() {
    let words = [0, 4, 8, 12, 16, 0x70, 0x100].map(|offset| {
        let mut word = [0xee; 4];
        read_empty(offset, &mut word);
        u32::from_le_bytes(word)
    });
    assert_eq!(words, [0x7472_6976, 2, 0, 0x5441_4b52, 0, 0, 0]);
    let mut part = [0xee; 2];
    read_empty(0, &mut part);
    assert_eq!(part, [0; 2]);
}
