//! Features and the configuration space.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::rig::{LIMIT, Rig};

/// The device works with each feature alone, and with all of them.
pub fn any_features_do<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::idle();
    let offered = rig.driver.offered();
    let least = 1 << VIRTIO_F_VERSION_1 | rig.fixture.required();
    assert_eq!(offered & least, least);
    let each = (0..64).map(|bit| 1 << bit & offered | least);
    for features in each.chain([offered]) {
        rig.start(features);
        rig.works();
        rig.reset();
    }
}

/// A feature that is not offered is refused.
pub fn no_other_features_do<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::idle();
    let offered = rig.driver.offered();
    let others = [0, 7, 23, 24, 36, 41, 50, 63];
    for bit in others.into_iter().filter(|bit| offered & 1 << bit == 0) {
        let mut rig = Rig::<F, D>::idle();
        assert!(!rig.driver.negotiate(offered | 1 << bit), "bit {bit}");
        rig.gone = true;
    }
    rig.start(offered);
    rig.works();
}

/// The configuration space reads the same with all widths, and as zeroes after its end.
pub fn config_space_is_readable<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    let Some(whole) = rig.driver.read_config(0, 128) else {
        return;
    };

    let expected = rig.fixture.config();
    assert_eq!(whole[..expected.len()], expected);
    for width in [1, 2, 4, 8] {
        for offset in 0..=128 - width {
            let data = rig.driver.read_config(offset as u32, width).unwrap();
            assert_eq!(data, whole[offset..][..width], "{width} bytes at {offset}");
        }
    }
    for offset in [0x200, 0x800, 0xe00] {
        let data = rig.driver.read_config(offset, 8).unwrap();
        assert_eq!(data, [0; 8], "at {offset:#x}");
    }
}

/// Writes to the configuration space are harmless, at any offset.
pub fn config_space_stands_writes<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    for offset in (0..300).chain([0x7ff, 0xdf0]) {
        for data in [&[0xff; 8][..], &[0; 4], &[1]] {
            rig.driver.write_config(offset, data);
        }
    }
    rig.recover();
}

/// A change of the configuration space raises an interrupt and changes its generation.
pub fn config_changes_are_signalled<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    for _ in 0..3 {
        rig.calm();
        let before = rig.driver.generation();
        let whole = rig.driver.read_config(0, 128);
        assert_eq!(rig.driver.generation(), before, "without a change");
        if before.is_none() || !rig.fixture.change_config() {
            return;
        }

        assert!(rig.driver.wait(LIMIT), "no interrupt");
        assert_ne!(rig.driver.generation(), before);
        assert_ne!(rig.driver.read_config(0, 128), whole);
    }
    rig.works();
}
