//! Tiny guests on the KVM of this machine: run loop, ports, registers, events, exits.
//!
//! They start in 64-bit mode, as a Linux kernel does. Any `/dev/kvm` is sufficient, even a slow
//! one.

use std::arch::global_asm;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use test_support::require;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::testing::Guest;
use super::*;
use crate::event::EventFd;
use crate::virtio::{Device, DeviceError, DeviceKind, Interrupt};

/// The machine code between two labels of the assembler text below.
macro_rules! code {
    ($start:ident) => {{
        unsafe extern "C" {
            static $start: [u8; 0];
            static guest_end: [u8; 0];
        }
        // SAFETY: all guests are in one section, in this order, and are only read. The code of
        // the guests after this one is copied, too, but never reached.
        unsafe {
            let start = (&raw const $start).cast::<u8>();
            let len = (&raw const guest_end).cast::<u8>().offset_from(start);
            std::slice::from_raw_parts(start, len as usize)
        }
    }};
}

global_asm!(
    ".pushsection .rodata.guests, \"a\"",
    // Prints the command line from the zero page, marks the boot, powers off.
    ".global guest_hello, guest_slots, guest_count, guest_fault, guest_kick, guest_wait, guest_irq, guest_end",
    "guest_hello:",
    "    mov esi, [rsi + 0x228]", // cmd_line_ptr
    "    mov dx, 0x3f8",
    "2:  lodsb",
    "    test al, al",
    "    jz 3f",
    "    out dx, al",
    "    jmp 2b",
    "3:  mov dx, 0x3f0",
    "    mov al, 1",
    "    out dx, al",
    "    mov dx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "4:  jmp 4b",
    // Prints the device id of the first slot as a digit; resets the machine.
    "guest_slots:",
    "    mov edi, 0xd0000000",
    "    mov eax, [rdi + 8]",
    "    add al, '0'",
    "    mov dx, 0x3f8",
    "    out dx, al",
    "    mov al, [rdi + 0x101]", // a byte of the configuration space
    "    out dx, al",
    "    mov dx, 0x602",
    "    mov al, 1",
    "    out dx, al",
    "4:  jmp 4b",
    // Counts in memory forever.
    "guest_count:",
    "    lock inc dword ptr [0x300000]",
    "    jmp guest_count",
    // An exception without a table of handlers.
    "guest_fault:",
    "    ud2",
    // Notifies queue 1 of the first slot, then powers off.
    "guest_kick:",
    "    mov edi, 0xd0000050",
    "    mov dword ptr [rdi], 1",
    "    mov dx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "4:  jmp 4b",
    // Waits for a device in the first slot, notifies its queue 1 and marks the boot; waits for
    // its removal, powers off.
    "guest_wait:",
    "    mov edi, 0xd0000000",
    "2:  mov eax, [rdi + 8]",
    "    test eax, eax",
    "    jz 2b",
    "    mov dword ptr [rdi + 0x50], 1",
    "    mov dx, 0x3f0",
    "    out dx, al",
    "3:  mov eax, [rdi + 8]",
    "    test eax, eax",
    "    jnz 3b",
    "    mov dx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "4:  jmp 4b",
    // In real mode: serves an interrupt of the second slot (GSI 6) by the I/O APIC. DS points
    // at the I/O APIC, and ES at the local APIC. Prints and resets.
    ".code16",
    ".balign 16",
    "guest_irq:",
    "    jmp 5f",
    ".balign 16",
    "    mov dx, 0x3f8", // the handler
    "    mov al, 'I'",
    "    out dx, al",
    "    mov dx, 0x602",
    "    mov al, 1",
    "    out dx, al",
    "4:  jmp 4b",
    "5:  mov dword ptr es:[0xf0], 0x1ff", // spurious interrupt vector: software enable
    "    mov dword ptr [0], 0x10 + 6 * 2", // redirection of input 6
    "    mov dword ptr [0x10], 0x30",
    "    mov dword ptr [0], 0x11 + 6 * 2",
    "    mov dword ptr [0x10], 0",
    "    mov dx, 0x3f0", // ready
    "    out dx, al",
    "    sti",
    "6:  hlt",
    "    jmp 6b",
    ".code64",
    "guest_end:",
    ".popsection",
);

/// A device that only records its calls.
struct Probe(Sender<&'static str>);

impl Device for Probe {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        1 << 32
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16; 2]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        data.fill(b'a' + offset as u8);
    }

    fn start_queue(
        &mut self,
        _index: usize,
        _queue: Queue,
        _mem: Memory,
        _kick: EventFd,
        _call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) -> Option<Queue> {
        None
    }

    fn reset(&mut self) {}
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

fn until(what: &str, happened: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn kernel_starts_with_its_command_line_and_powers_off() {
    let Some(guest) = Guest::new(code!(guest_hello), 1) else {
        return;
    };

    guest.machine.run();

    assert_eq!(guest.end(), GuestExit::PowerOff);
    assert!(
        guest
            .machine
            .boot_mark()
            .is_some_and(|mark| !mark.is_zero())
    );
    assert_eq!(guest.machine.hotplug_region(), None);
    assert_eq!(guest.output(), "hello");
}

#[test]
fn registers_of_devices_are_read_by_mmio() {
    let Some(guest) = Guest::new(code!(guest_slots), 1) else {
        return;
    };
    let (sender, events) = channel();

    assert_eq!(guest.machine.attach(Box::new(Probe(sender))).unwrap(), 0);
    guest.machine.run();

    assert_eq!(guest.end(), GuestExit::Reset);
    assert_eq!(guest.machine.devices(), [("rng", true)]);
    assert_eq!(guest.output(), "4b");
    assert_eq!(events.recv_timeout(Duration::from_secs(10)), Ok("dropped"));
}

#[test]
fn unhandled_fault_is_a_triple_fault() {
    let Some(guest) = Guest::new(code!(guest_fault), 1) else {
        return;
    };

    guest.machine.run();

    assert_eq!(guest.end(), GuestExit::TripleFault);
}

#[test]
fn paused_guest_stands_still_and_goes_on() {
    let Some(guest) = Guest::new(code!(guest_count), 2) else {
        return;
    };
    let mem = guest.machine.memory();
    let count = || -> u32 {
        let address = GuestAddress(0x30_0000);
        mem.memory().load(address, Ordering::SeqCst).unwrap()
    };

    for _ in 0..20 {
        guest.machine.run();
        let before = count();
        until("the guest to run", || count() > before);
        guest.machine.pause().unwrap();
        let before = count();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(count(), before);
    }
}

#[test]
fn irqfd_interrupts_the_guest() {
    const CODE: u64 = 0x8000;
    const HANDLER: u16 = CODE as u16 + 16;
    let kvm = require!(test_support::kvm());
    let kvm = kvm::open(kvm).unwrap();
    let memory = MemoryConfig {
        mib: 1,
        ..Default::default()
    };
    let mem = memory.make().unwrap();
    mem.write_slice(code!(guest_irq), GuestAddress(CODE))
        .unwrap();
    // The interrupt vector table of real mode: offset, segment.
    mem.write_obj(HANDLER, GuestAddress(0x30 * 4)).unwrap();
    let real_mode = |vcpu: &VcpuFd| {
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.ds.base = layout::IO_APIC.into();
        sregs.es.base = layout::LOCAL_APIC.into();
        vcpu.set_sregs(&sregs).unwrap();
        let mut regs = vcpu.get_regs().unwrap();
        (regs.rip, regs.rsp, regs.rflags) = (CODE, CODE, 2);
        vcpu.set_regs(&regs).unwrap();
        Ok(())
    };
    let (vm, vcpus) = assemble(&kvm, &mem, 1, real_mode).unwrap();
    let irq = EventFd::new().unwrap();
    vm.register_irqfd(irq.for_kvm(), layout::slot_gsi(1))
        .unwrap();
    let (console, _owner) = UnixStream::pair().unwrap();
    let ending = Ending::new().unwrap();
    let bus = Bus::new(
        io_apic(&vm),
        EventFd::new().unwrap(),
        console.into(),
        ending.clone(),
        Instant::now(),
    );
    let bus = Arc::new(bus);
    let vcpus = Vcpus::start(vcpus, &bus, &ending).unwrap();

    vcpus.run();
    // An edge on a masked input is lost.
    until("the guest to be ready", || bus.boot_mark().is_some());
    irq.write(1).unwrap();

    assert_eq!(testing::end(&ending), GuestExit::Reset);
}

#[test]
fn notification_reaches_the_kick_of_its_queue() {
    let Some(guest) = Guest::new(code!(guest_kick), 1) else {
        return;
    };
    let (sender, _events) = channel();
    guest.machine.attach(Box::new(Probe(sender))).unwrap();

    guest.machine.run();

    assert_eq!(guest.end(), GuestExit::PowerOff);
    let slot = guest.machine.bus.slots().next().unwrap();
    let kicks = slot.as_ref().unwrap().kicks();
    let unread = kicks[0].read().unwrap_err();
    assert_eq!(unread.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(kicks[1].read().unwrap(), 1);
}

#[test]
fn all_slots_can_be_used_and_no_more() {
    let Some(guest) = Guest::new(code!(guest_hello), 1) else {
        return;
    };
    let (sender, _events) = channel();

    for index in 0..layout::SLOT_COUNT {
        let slot = guest
            .machine
            .attach(Box::new(Probe(sender.clone())))
            .unwrap();
        assert_eq!(slot, index);
    }
    let refused = guest.machine.attach(Box::new(Probe(sender)));

    assert!(matches!(refused, Err(MachineError::NoSlot(_))));
}

#[test]
fn devices_come_and_go_while_the_guest_runs() {
    let Some(guest) = Guest::new(code!(guest_wait), 1) else {
        return;
    };
    let (sender, events) = channel();
    guest.machine.run();

    assert_eq!(guest.machine.attach(Box::new(Probe(sender))).unwrap(), 0);
    until("the guest to see it", || {
        guest.machine.boot_mark().is_some()
    });
    {
        let slot = guest.machine.bus.slots().next().unwrap();
        let kicks = slot.as_ref().unwrap().kicks();
        assert_eq!(kicks[1].read().unwrap(), 1);
    }
    guest.machine.detach(0).unwrap();

    assert_eq!(guest.end(), GuestExit::PowerOff);
    assert_eq!(events.try_recv(), Ok("dropped"));
    assert!(guest.machine.devices().is_empty());
    for index in [0, layout::SLOT_COUNT] {
        let refused = guest.machine.detach(index);
        assert!(matches!(refused, Err(MachineError::EmptySlot(_))));
    }
}

#[test]
fn a_slot_that_was_left_is_taken_again() {
    let Some(guest) = Guest::new(code!(guest_hello), 1) else {
        return;
    };
    let (sender, _events) = channel();
    let attach = || guest.machine.attach(Box::new(Probe(sender.clone())));

    // More often than there are slots: KVM's events must be freed.
    for _ in 0..2 * layout::SLOT_COUNT {
        assert_eq!(attach().unwrap(), 0);
        guest.machine.detach(0).unwrap();
    }
    attach().unwrap();
    assert_eq!(attach().unwrap(), 1);
}

#[test]
fn wrong_numbers_of_vcpus_are_refused() {
    let kvm = require!(test_support::kvm());
    let kvm = kvm::open(kvm).unwrap();
    for (vcpus, max_vcpus) in [(0, 1), (2, 1), (1, 255)] {
        let config = MachineConfig {
            vcpus,
            max_vcpus,
            memory: MemoryConfig::default(),
            cmdline: String::new(),
        };

        let refused = check_vcpus(&config, &kvm).unwrap_err();

        assert!(matches!(refused, MachineError::Vcpus { .. }));
    }
}

#[test]
fn memory_to_plug_is_part_of_the_machine() {
    let Some(guest) = Guest::with(code!(guest_hello), 1, 128) else {
        return;
    };
    assert_eq!(guest.machine.hotplug_region(), Some((4 << 30, 128 << 20)));
    let mem = guest.machine.memory();
    let last = GuestAddress((4 << 30) + (128 << 20) - 8);
    mem.memory().write_obj(7u64, last).unwrap();
}

#[test]
fn another_device_is_distinguished_from_kvm() {
    let null = std::fs::File::open("/dev/null").unwrap();

    let refused = kvm::open(null.into()).err().unwrap();

    assert!(matches!(refused, MachineError::ApiVersion(_)), "{refused}");
}
