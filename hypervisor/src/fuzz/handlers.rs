//! Devices that serve chains one after the other, driven without their threads.

use std::cell::RefCell;

use vm_memory::{Bytes, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::{Driver, Script};
use crate::virtio::ring::Chain;
use crate::virtio::{Handler, serve_batch};

/// The most queues of a device in these tests.
const QUEUES: usize = 5;

thread_local! {
    /// Kept, since making guest memory takes longer than most scripts.
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new(QUEUES));
}

/// Drives a device with a handler for each queue by `bytes`. `special` is an additional step
/// for the device.
pub(crate) fn drive<H: Handler>(
    bytes: &[u8],
    mut handlers: Vec<H>,
    mut special: impl FnMut(&mut Script<'_>),
) {
    DRIVER.with_borrow_mut(|driver| {
        let mut script = Script::new(bytes);
        driver.reset(handlers.len(), script.byte() & 1 != 0);
        while !script.is_over() {
            let Some(index) = driver.step(&mut script) else {
                continue;
            };
            special(&mut script);
            if let Some(ring) = driver.ring(index) {
                // At most the offered chains are served: a broken ring is given up at once.
                assert!(!serve_batch(ring, &mut handlers[index]), "it spins");
            }
        }
    });
}

/// A step that only changes guest memory.
pub(crate) fn drive_memory(driver: &mut Driver, script: &mut Script<'_>) {
    let _ = driver.step(script);
}

/// A handler with checks: it does not report more bytes than it wrote, and writes only to
/// memory that the chain makes writable.
pub(crate) struct Checked<H>(pub H);

impl<H: Handler> Handler for Checked<H> {
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        let writable: Vec<(u64, u64)> = chain
            .clone()
            .writable()
            .map(|desc| (desc.addr().0, desc.len().into()))
            .collect();
        let before = contents(mem);
        let len = self.0.handle(mem, chain);
        let room = writable.iter().map(|(_, len)| len).sum();
        assert!(u64::from(len) <= room, "{len} bytes written to {room}");
        for ((start, mut before), (_, after)) in before.into_iter().zip(contents(mem)) {
            for (at, len) in &writable {
                let from = at.saturating_sub(start).min(after.len() as u64) as usize;
                let end = at.saturating_add(*len).saturating_sub(start);
                let to = end.min(after.len() as u64) as usize;
                before[from..to].copy_from_slice(&after[from..to]);
            }
            assert!(before == after, "written to what is not the device's");
        }
        len
    }
}

fn contents(mem: &GuestMemoryMmap) -> Vec<(u64, Vec<u8>)> {
    mem.iter()
        .map(|region| {
            let start = region.start_addr();
            let mut bytes = vec![0; region.len() as usize];
            mem.read_slice(&mut bytes, start).unwrap();
            (start.0, bytes)
        })
        .collect()
}
