//! A fuzz target for the memory device.

use std::sync::Arc;

use super::{Mem, MemRegion, Requests};
use crate::fuzz::{NoInterrupt, drive};
use crate::virtio::Device;

/// The upper region of the fuzzer's memory.
const REGION: MemRegion = MemRegion {
    addr: 0x10_0000,
    size: 0x8000,
    block_size: 0x1000,
};

/// The memory device: its queue and the VMM's requests.
pub fn mem(bytes: &[u8]) {
    let mut device = Mem::new(REGION).unwrap();
    device.set_config_interrupt(Arc::new(NoInterrupt));
    let control = device.control();
    let requests = Requests(Arc::clone(&device.state));
    drive(bytes, vec![requests], |script| {
        match script.below(8) {
            0 => {
                let size = u64::from(script.byte()) << 12;
                let fits = size <= REGION.size;
                assert_eq!(control.resize(size).is_ok(), fits);
            }
            1 => {
                let _ = control.resize(script.quad());
            }
            2 => device.reset(),
            _ => {
                let mut config = [0xff; 64];
                device.read_config(script.below(64), &mut config);
            }
        }
        assert!(control.requested() <= REGION.size && control.plugged() <= REGION.size);
        assert!(control.plugged().is_multiple_of(REGION.block_size));
    });
}
