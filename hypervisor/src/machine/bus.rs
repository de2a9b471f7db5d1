//! The devices behind the ports and addresses that a vCPU accesses.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::MachineError;
use super::exit::{Ending, GuestExit};
use super::io_apic::{self, IoApic};
use super::layout;
use super::serial::Serial;
use crate::event::EventFd;
use crate::sync::lock;
use crate::transport::mmio::{self, Mmio};

/// The devices, shared by all vCPUs.
pub(super) struct Bus {
    slots: [Mutex<Option<Mmio>>; layout::SLOT_COUNT],
    io_apic: Mutex<IoApic>,
    serial: Mutex<Serial>,
    ending: Ending,
    started: Instant,
    boot_mark: OnceLock<Duration>,
}

impl Bus {
    /// A bus with an I/O APIC and a serial port only. `started` is the start of this process.
    pub fn new(
        io_apic: IoApic,
        com1: EventFd,
        console: OwnedFd,
        ending: Ending,
        started: Instant,
    ) -> Bus {
        Bus {
            slots: std::array::from_fn(|_| Mutex::new(None)),
            io_apic: Mutex::new(io_apic),
            serial: Mutex::new(Serial::new(com1, console)),
            ending,
            started,
            boot_mark: OnceLock::new(),
        }
    }

    /// The slots, in the order of their addresses.
    pub fn slots(&self) -> impl Iterator<Item = MutexGuard<'_, Option<Mmio>>> {
        self.slots.iter().map(lock)
    }

    /// The time of the guest's boot mark, since this process was started.
    pub fn boot_mark(&self) -> Option<Duration> {
        self.boot_mark.get().copied()
    }

    /// Writes out the buffered output of the serial port.
    pub fn flush(&self) {
        lock(&self.serial).flush();
    }

    /// A read of a register in memory. An address without a device reads as ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            match &mut *lock(slot) {
                Some(device) => device.read(offset, data),
                None => mmio::read_empty(offset, data),
            }
        } else if let Some(offset) = io_apic(address) {
            lock(&self.io_apic).read(offset, data);
        } else {
            data.fill(0xff);
        }
    }

    /// A write to a register in memory. The guest cannot continue after an error.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MachineError> {
        if let Some((slot, offset)) = self.slot(address) {
            if let Some(device) = &mut *lock(slot) {
                device.write(offset, data);
            }
        } else if let Some(offset) = io_apic(address) {
            lock(&self.io_apic).write(offset, data)?;
        }
        Ok(())
    }

    fn slot(&self, address: u64) -> Option<(&Mutex<Option<Mmio>>, u64)> {
        let offset = address.checked_sub(layout::SLOTS)?;
        let index = usize::try_from(offset / mmio::SLOT_SIZE).ok()?;
        Some((self.slots.get(index)?, offset % mmio::SLOT_SIZE))
    }

    /// A read of a port. A port without a device reads as ones.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(register) = com1(port) {
            data.fill_with(|| lock(&self.serial).read(register));
        } else if matches!(port, layout::SLEEP_STATUS | layout::I8042_COMMAND) {
            // Not in a wake-up, and not busy.
            data.fill(0);
        }
    }

    /// A write to a port.
    pub fn write_port(&self, port: u16, data: &[u8]) {
        if let Some(register) = com1(port) {
            let mut serial = lock(&self.serial);
            data.iter().for_each(|byte| serial.write(register, *byte));
            return;
        }
        let power_off = layout::SLEEP_ENABLE | layout::SLEEP_TYPE_S5 << 2;
        match (port, data) {
            (layout::SLEEP_CONTROL, [value]) if *value == power_off => {
                self.ending.report(GuestExit::PowerOff);
            }
            (layout::RESET, [layout::RESET_VALUE])
            | (layout::I8042_COMMAND, [layout::I8042_RESET]) => {
                self.ending.report(GuestExit::Reset);
            }
            (layout::BOOT_MARK, [_]) => {
                let mark = self.boot_mark.get_or_init(|| self.started.elapsed());
                log::info!("Guest boot mark after {mark:?}");
            }
            _ => log::trace!("Write to port {port:#x}"),
        }
    }
}

fn io_apic(address: u64) -> Option<u64> {
    let offset = address.checked_sub(layout::IO_APIC.into())?;
    (offset < io_apic::LEN).then_some(offset)
}

fn com1(port: u16) -> Option<u8> {
    let register = port.checked_sub(layout::COM1)?;
    (register < layout::COM1_LEN).then_some(register as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn bus() -> (Bus, Ending) {
        let (console, _) = UnixStream::pair().unwrap();
        let ending = Ending::new().unwrap();
        let irq = EventFd::new().unwrap();
        let io_apic = IoApic::new(Box::new(|_| Ok(())));
        let bus = Bus::new(io_apic, irq, console.into(), ending.clone(), Instant::now());
        (bus, ending)
    }

    #[test]
    fn nothing_is_at_other_addresses() {
        let (bus, ending) = bus();

        for address in [
            0,
            layout::SLOTS - 4,
            layout::slot_address(layout::SLOT_COUNT),
            u64::from(layout::IO_APIC) - 4,
            u64::from(layout::IO_APIC) + io_apic::LEN,
            u64::MAX,
        ] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            bus.write(address, &data).unwrap();
            assert_eq!(data, [0xff; 4]);
        }
        for port in [0, 0x80, 0xcf8, u16::MAX] {
            let mut data = [0; 4];
            bus.read_port(port, &mut data);
            bus.write_port(port, &data);
            assert_eq!(data, [0xff; 4]);
        }
        assert_eq!(ending.taken(), None);
    }

    #[test]
    fn free_slots_say_that_they_are_free() {
        let (bus, _) = bus();
        let mut id = [0xff; 4];

        bus.read(layout::slot_address(3) + 8, &mut id);

        assert_eq!(id, [0; 4]);
    }

    #[test]
    fn the_io_apic_is_at_its_place() {
        let (bus, _) = bus();
        let mut version = [0; 4];

        bus.write(layout::IO_APIC.into(), &[1, 0, 0, 0]).unwrap();
        bus.read(u64::from(layout::IO_APIC) + 0x10, &mut version);

        assert_eq!(version, [0x11, 0, 23, 0]);
    }

    #[test]
    fn power_off_and_reset_end_the_machine() {
        for (port, value, end) in [
            (layout::SLEEP_CONTROL, 0x34, GuestExit::PowerOff),
            (layout::RESET, 1, GuestExit::Reset),
            (layout::I8042_COMMAND, 0xfe, GuestExit::Reset),
        ] {
            let (bus, ending) = bus();

            bus.write_port(port, &[0]);
            assert_eq!(ending.taken(), None);
            bus.write_port(port, &[value]);

            assert_eq!(ending.taken(), Some(end));
        }
    }

    #[test]
    fn first_boot_mark_counts() {
        let (bus, _) = bus();
        assert_eq!(bus.boot_mark(), None);

        bus.write_port(layout::BOOT_MARK, &[1]);
        let first = bus.boot_mark();
        bus.write_port(layout::BOOT_MARK, &[1]);

        assert!(first.is_some());
        assert_eq!(bus.boot_mark(), first);
    }

    #[test]
    fn each_slot_has_its_page_and_the_serial_port_eight_registers() {
        let (bus, _) = bus();
        let device = Box::new(crate::virtio::rng::Rng::new());
        let mem = crate::virtio::testing::memory();
        let device = Mmio::new(device, mem, EventFd::new().unwrap()).unwrap();
        *bus.slots().nth(2).unwrap() = Some(device);
        let read = |address| {
            let mut data = [0xee; 4];
            bus.read(address, &mut data);
            u32::from_le_bytes(data)
        };
        // virtio 1.2 §4.2.2: DeviceID at 8, Status at 0x70.
        let ids = [1, 2, 3].map(|slot| read(layout::slot_address(slot) + 8));
        assert_eq!(ids, [0, 4, 0]);
        bus.write(layout::slot_address(2) + 0x70, &[1, 0, 0, 0])
            .unwrap();
        let states = [1, 2, 3].map(|slot| read(layout::slot_address(slot) + 0x70));
        assert_eq!(states, [0, 1, 0]);
        assert_eq!(bus.slots().count(), 19);

        // The last register is memory for a byte.
        bus.write_port(0x3ff, &[0x5a]);
        let ports = [0x3f7, 0x3ff, 0x400].map(|port| {
            let mut data = [0];
            bus.read_port(port, &mut data);
            data[0]
        });
        assert_eq!(ports, [0xff, 0x5a, 0xff]);
        let mut both = [0xff; 2];
        bus.read_port(layout::SLEEP_STATUS, &mut both[..1]);
        bus.read_port(layout::I8042_COMMAND, &mut both[1..]);
        assert_eq!(both, [0, 0]);
    }

    #[test]
    fn other_values_at_the_ports_of_the_end_are_no_end() {
        let (bus, ending) = bus();
        for (port, data) in [
            (layout::SLEEP_CONTROL, &[0x34, 0][..]),
            (layout::SLEEP_CONTROL, &[0x14]),
            (layout::SLEEP_CONTROL, &[0x30]),
            (layout::RESET, &[2]),
            (layout::RESET, &[1, 0]),
            (layout::I8042_COMMAND, &[0xfd]),
            (layout::SLEEP_STATUS, &[0x34]),
            (layout::BOOT_MARK, &[1, 1]),
        ] {
            bus.write_port(port, data);
        }
        assert_eq!(ending.taken(), None);
        assert_eq!(bus.boot_mark(), None);
    }
}
