//! A fuzz target for the balloon.

use std::sync::Arc;

use super::{Balloon, BalloonQueue};
use crate::fuzz::{NoInterrupt, drive};
use crate::virtio::Device;

/// The balloon device: its queues and its configuration.
pub fn balloon(bytes: &[u8]) {
    let mut device = Balloon::new();
    device.set_config_interrupt(Arc::new(NoInterrupt));
    let control = device.control();
    let roles = (0..super::QUEUES).map(BalloonQueue::of).collect();
    drive(bytes, roles, |script| match script.below(8) {
        0 => device.write_config(script.below(20), script.bytes(4)),
        1 => device.write_config(script.quad() as usize, script.bytes(8)),
        2 => control.set_target(script.long()),
        3 => device.reset(),
        _ => {
            let mut config = [0xff; 32];
            device.read_config(script.below(40), &mut config);
            device.read_config(script.quad() as usize, &mut config);
        }
    });
    assert_eq!(control.actual().to_le_bytes(), device.config()[4..8]);
}
