//! A fuzz target for the registers, with a device that checks its transport.

use std::cell::RefCell;

use super::registers::{self, status};
use super::{Mmio, read_empty};
use crate::event::EventFd;
use crate::fuzz::{Driver, Plain, Script, drive_memory};

/// Most accesses use the offsets of registers.
const OFFSETS: [u64; 32] = [
    registers::MAGIC_VALUE,
    registers::DEVICE_ID,
    registers::DEVICE_FEATURES,
    registers::DEVICE_FEATURES_SEL,
    registers::DRIVER_FEATURES,
    registers::DRIVER_FEATURES_SEL,
    registers::QUEUE_SEL,
    registers::QUEUE_NUM_MAX,
    registers::QUEUE_NUM,
    registers::QUEUE_NUM,
    registers::QUEUE_READY,
    registers::QUEUE_READY,
    registers::QUEUE_NOTIFY,
    registers::INTERRUPT_STATUS,
    registers::INTERRUPT_ACK,
    registers::STATUS,
    registers::STATUS,
    registers::STATUS,
    registers::QUEUE_DESC_LOW,
    registers::QUEUE_DESC_LOW + 4,
    registers::QUEUE_DRIVER_LOW,
    registers::QUEUE_DRIVER_HIGH,
    registers::QUEUE_DEVICE_LOW,
    registers::QUEUE_DEVICE_HIGH,
    registers::QUEUE_RESET,
    registers::SHM_SEL,
    registers::SHM_LEN_LOW,
    registers::SHM_BASE_HIGH,
    registers::CONFIG_GENERATION,
    0x100,
    0x104,
    0x110,
];

thread_local! {
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new(1));
}

/// The registers of a device: arbitrary accesses, in any order.
pub fn mmio(bytes: &[u8]) {
    DRIVER.with_borrow_mut(|driver| {
        let mut script = Script::new(bytes);
        driver.reset(1, false);
        let irq = EventFd::new().unwrap();
        let device = Box::new(Plain::default());
        let mut mmio = Mmio::new(device, driver.mem.clone(), irq).unwrap();
        if script.byte() & 1 != 0 {
            bring_up(&mut mmio);
        }
        while !script.is_over() {
            access(&mut mmio, driver, &mut script);
            let now = mmio.status();
            let known = status::SETTABLE | status::NEEDS_RESET;
            assert_eq!(now & !known, 0, "status {now:#x}");
            let broken = now & status::NEEDS_RESET != 0;
            assert_eq!(mmio.needs_reset(), broken);
        }
    });
}

/// The first steps of every driver, up to FEATURES_OK.
fn bring_up(mmio: &mut Mmio) {
    let mut write = |offset, value: u32| mmio.write(offset, &value.to_le_bytes());
    let mut value = 0;
    for bit in [status::ACKNOWLEDGE, status::DRIVER] {
        value |= bit;
        write(registers::STATUS, value);
    }
    write(registers::DRIVER_FEATURES_SEL, 1);
    write(registers::DRIVER_FEATURES, 1);
    write(registers::STATUS, value | status::FEATURES_OK);
}

fn access(mmio: &mut Mmio, driver: &mut Driver, script: &mut Script<'_>) {
    let what = script.byte();
    let offset = match what >> 5 {
        7 => u64::from(script.word()),
        6 => script.quad(),
        _ => OFFSETS[script.below(OFFSETS.len())],
    };
    let width = match what >> 3 & 3 {
        0 => 1 + script.below(16),
        _ => 4,
    };
    match what & 7 {
        0 => {
            let mut data = vec![0xaa; width];
            mmio.read(offset, &mut data);
            read_empty(offset, &mut data);
        }
        1 => mmio.pause(),
        2 => mmio.resume(),
        3 => drive_memory(driver, script),
        4 if offset == registers::STATUS => {
            // The next bit, as a correct driver sets it.
            let now = mmio.status();
            let next = match now {
                0 => status::ACKNOWLEDGE,
                now if now & status::DRIVER == 0 => status::DRIVER,
                now if now & status::FEATURES_OK == 0 => status::FEATURES_OK,
                _ => status::DRIVER_OK,
            };
            mmio.write(offset, &(now | next).to_le_bytes());
        }
        _ => {
            let value = u64::from(script.number()).to_le_bytes();
            let value = [value, [0xff; 8]].concat();
            mmio.write(offset, &value[..width]);
        }
    }
}
