//! The driver on virtio-mmio: it writes registers as a guest does.

use std::os::fd::AsFd;
use std::time::Duration;

use super::super::mmio::registers::{self, status};
use super::super::mmio::{Mmio, QUEUE_NOTIFY};
use super::driver::{Driver, wait_any};
use super::guest::Guest;
use crate::event::EventFd;
use crate::virtio::Device;
use crate::virtio::testing::Rings;

/// See the module.
pub struct MmioDriver {
    mmio: Mmio,
    irq: EventFd,
}

impl MmioDriver {
    fn get(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.mmio.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn put(&mut self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    fn put_address(&mut self, low: u64, address: u64) {
        self.put(low, address as u32);
        self.put(low + 4, (address >> 32) as u32);
    }
}

impl Driver for MmioDriver {
    fn new(device: Box<dyn Device>, guest: &Guest) -> MmioDriver {
        let irq = EventFd::new().unwrap();
        let theirs = irq.try_clone().unwrap();
        MmioDriver {
            mmio: Mmio::new(device, guest.mem.clone(), theirs).unwrap(),
            irq,
        }
    }

    fn offered(&mut self) -> u64 {
        let [low, high] = [0, 1].map(|select| {
            self.put(registers::DEVICE_FEATURES_SEL, select);
            u64::from(self.get(registers::DEVICE_FEATURES))
        });
        low | high << 32
    }

    fn negotiate(&mut self, features: u64) -> bool {
        let mut now = 0;
        for bit in [status::ACKNOWLEDGE, status::DRIVER] {
            now |= bit;
            self.put(registers::STATUS, now);
        }
        for (select, half) in [(0, features), (1, features >> 32)] {
            self.put(registers::DRIVER_FEATURES_SEL, select);
            self.put(registers::DRIVER_FEATURES, half as u32);
        }
        now |= status::FEATURES_OK;
        self.put(registers::STATUS, now);
        self.get(registers::STATUS) == now
    }

    fn set_up(&mut self, index: usize, rings: &Rings) {
        self.put(registers::QUEUE_SEL, index as u32);
        assert!(self.get(registers::QUEUE_NUM_MAX) >= rings.size().into());
        assert_eq!(self.get(registers::QUEUE_READY), 0);
        self.put(registers::QUEUE_NUM, rings.size().into());
        self.put_address(registers::QUEUE_DESC_LOW, rings.table());
        self.put_address(registers::QUEUE_DRIVER_LOW, rings.avail_ring());
        self.put_address(registers::QUEUE_DEVICE_LOW, rings.used_ring());
        self.put(registers::QUEUE_READY, 1);
    }

    fn run(&mut self) {
        let now = self.get(registers::STATUS) | status::DRIVER_OK;
        self.put(registers::STATUS, now);
    }

    fn kick(&mut self, index: usize) {
        self.put(QUEUE_NOTIFY, index as u32);
    }

    fn wait(&mut self, limit: Duration) -> bool {
        if !wait_any([self.irq.as_fd()].into_iter(), limit) {
            return false;
        }
        self.irq.read().unwrap();
        let pending = self.get(registers::INTERRUPT_STATUS);
        self.put(registers::INTERRUPT_ACK, pending);
        true
    }

    fn failed(&mut self) -> bool {
        self.get(registers::STATUS) & status::NEEDS_RESET != 0
    }

    fn read_config(&mut self, offset: u32, len: usize) -> Option<Vec<u8>> {
        let mut data = vec![0xaa; len];
        let offset = registers::CONFIG + u64::from(offset);
        self.mmio.read(offset, &mut data);
        Some(data)
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        self.mmio.write(registers::CONFIG + u64::from(offset), data);
    }

    fn generation(&mut self) -> Option<u32> {
        Some(self.get(registers::CONFIG_GENERATION))
    }

    fn reset(&mut self) {
        self.put(registers::STATUS, 0);
        assert_eq!(self.get(registers::STATUS), 0);
        // An earlier interrupt.
        let _ = self.irq.read();
    }

    fn reset_queue(&mut self, index: usize) {
        self.put(registers::QUEUE_SEL, index as u32);
        self.put(registers::QUEUE_RESET, 1);
        assert_eq!(self.get(registers::QUEUE_RESET), 0);
    }

    fn pause(&mut self) {
        self.mmio.pause();
    }

    fn resume(&mut self) {
        self.mmio.resume();
    }
}
