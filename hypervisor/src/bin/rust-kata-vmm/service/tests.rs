//! The service as its server calls it: devices for QEMU, and a machine on KVM whose guest is a
//! few instructions.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use hypervisor::control::DeviceConfig;
use hypervisor::machine::{GuestExit, MemoryConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use test_support::{kvm, require};

/// Marks the boot, prints a letter, powers the machine off.
const GUEST: &[u8] = &[
    0x66, 0xba, 0xf0, 0x03, // mov dx, 0x3f0
    0xb0, 0x01, // mov al, 1
    0xee, // out dx, al
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'v', // mov al, 'v'
    0xee, // out dx, al
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, // mov al, 0x34
    0xee, // out dx, al
    0xeb, 0xfe, // jmp to itself
];

/// Jumps to itself.
const BUSY: &[u8] = &[0xeb, 0xfe];

/// An ELF file for x86-64 with `code` as its only segment, at 1 MiB.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let entry = (1u64 << 20).to_le_bytes();
    let len = (code.len() as u64).to_le_bytes();
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &entry);
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1]);
    put(64, &[1, 0, 0, 0, 7]);
    put(72, &0x1000u64.to_le_bytes());
    for (at, bytes) in [(80, &entry), (88, &entry), (96, &len), (104, &len)] {
        put(at, bytes);
    }
    image.extend_from_slice(code);
    image
}

fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.into()
}

fn disk() -> Attached {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let config = DeviceConfig::Block {
        read_only: false,
        id: "d".into(),
    };
    (config, vec![file.into()])
}

/// A machine with 4 MiB of memory, and the other end of its console.
fn built(code: &[u8], hotplug_mib: u32) -> Option<(VmmService, Ending, UnixStream)> {
    let kvm = require!(kvm());
    let (console, theirs) = UnixStream::pair().unwrap();
    let config = MachineConfig {
        vcpus: 1,
        max_vcpus: 1,
        memory: MemoryConfig {
            mib: 4,
            hotplug_mib,
            ..MemoryConfig::default()
        },
        cmdline: "quiet".into(),
    };
    let files = MachineFiles {
        kvm,
        kernel: file(&elf(code)),
        initrd: file(b"initrd"),
        console: theirs.into(),
    };
    let mut devices = vec![(DeviceConfig::Rng, vec![])];
    if hotplug_mib > 0 {
        devices.push((DeviceConfig::Mem, vec![]));
        devices.push((DeviceConfig::Balloon, vec![]));
    }
    let mut service = VmmService::new(Instant::now());
    let ending = service.build(config, files, devices).unwrap();
    Some((service, ending, console))
}

fn kinds(service: &VmmService) -> Vec<(String, bool)> {
    let devices = service.status().devices.into_iter();
    devices.map(|it| (it.kind, it.connected)).collect()
}

#[test]
fn a_machine_is_built_run_and_ended() {
    let Some((mut service, ending, mut console)) = built(GUEST, 0) else {
        return;
    };
    assert_eq!(kinds(&service), [("rng".to_owned(), true)]);
    assert_eq!(service.status().boot_mark_us, None);
    service.pause().unwrap();

    service.run().unwrap();

    let fd = PollFd::new(ending.as_fd(), PollFlags::POLLIN);
    let ready = poll(&mut [fd], PollTimeout::from(20_000u16)).unwrap();
    assert!(ready > 0, "the guest goes on");
    assert_eq!(ending.taken(), Some(GuestExit::PowerOff));
    // In microseconds, of which the start took some.
    let mark = service.status().boot_mark_us.unwrap();
    assert!((50..60_000_000).contains(&mark), "{mark}");
    service.stop();
    let mut text = String::new();
    console
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    console.read_to_string(&mut text).unwrap();
    assert_eq!(text, "v");
    assert_eq!(kinds(&service), []);
    assert_eq!(service.run().unwrap_err(), "no machine is running");
}

#[test]
fn disks_come_and_go_with_their_slots() {
    let Some((mut service, ..)) = built(BUSY, 0) else {
        return;
    };
    service.run().unwrap();

    let slots = [
        service.attach(disk()).unwrap(),
        service.attach(disk()).unwrap(),
    ];
    assert_eq!(slots, [1, 2]);
    assert_eq!(kinds(&service).len(), 3);
    service.detach(1).unwrap();
    // Neither the device that was there from the start, nor one twice.
    for slot in [0, 1, 3, u32::MAX] {
        let refused = service.detach(slot).unwrap_err();
        assert_eq!(refused, format!("no device is attached to slot {slot}"));
    }
    assert_eq!(service.attach(disk()).unwrap(), 1);
    let left: Vec<_> = kinds(&service).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(left, ["rng", "block", "block"]);
    let (config, _) = disk();
    let refused = service.attach((config, vec![])).unwrap_err();
    assert_eq!(refused, "0 descriptors, not 1");
    service.pause().unwrap();
}

#[test]
fn memory_is_requested_in_mebibytes() {
    let Some((mut service, ..)) = built(BUSY, 128) else {
        return;
    };
    let kinds: Vec<_> = kinds(&service).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["rng", "mem", "balloon"]);
    let refused = service.plug_memory(129).unwrap_err();
    assert!(refused.contains(&format!("{}", 129 << 20)), "{refused}");
    let refused = service.plug_memory(3).unwrap_err();
    assert!(refused.contains(&format!("{}", 3 << 20)), "{refused}");
    // This guest plugs nothing, and nothing is requested.
    assert_eq!(service.plug_memory(0).unwrap(), 0);
    let control = service.plugging.as_ref().unwrap();
    assert_eq!(control.requested(), 0);
    let Some((mut fixed, ..)) = built(BUSY, 0) else {
        return;
    };
    let refused = fixed.plug_memory(0).unwrap_err();
    assert_eq!(refused, "this machine has no memory to plug");
}

#[test]
fn without_a_machine_there_is_nothing_to_drive() {
    let mut service = VmmService::new(Instant::now());
    let no_machine = "no machine is running";
    assert_eq!(service.run().unwrap_err(), no_machine);
    assert_eq!(service.pause().unwrap_err(), no_machine);
    assert_eq!(service.attach(disk()).unwrap_err(), no_machine);
    assert_eq!(service.detach(0).unwrap_err(), no_machine);
    assert_eq!(service.status(), VmmStatus::default());
    service.stop();
}

#[test]
fn devices_are_served_until_the_other_end_or_the_service_stops() {
    let mut service = VmmService::new(Instant::now());
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..2).map(|_| UnixStream::pair().unwrap()).unzip();
    let kinds_of = [DeviceConfig::Rng, DeviceConfig::Balloon];
    let devices = kinds_of.into_iter().zip(theirs);
    let devices = devices.map(|(config, socket)| (config, vec![socket.into()]));
    service.serve(devices.collect()).unwrap();
    let found = kinds(&service);
    assert_eq!(
        found,
        [("rng".to_owned(), true), ("balloon".to_owned(), true)]
    );

    let [first, mut second] = <[UnixStream; 2]>::try_from(ours).unwrap();
    drop(first);
    let end = Instant::now() + Duration::from_secs(20);
    while kinds(&service)[0].1 {
        assert!(Instant::now() < end, "the end is not noticed");
        std::thread::yield_now();
    }
    assert!(kinds(&service)[1].1);
    service.stop();
    second
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(second.read(&mut [0; 8]).unwrap(), 0);
    let socket: OwnedFd = UnixStream::pair().unwrap().0.into();
    let config = DeviceConfig::Fs {
        tag: "t".into(),
        dir: "/nonexistent".into(),
        files: 1,
    };
    let refused = service.serve(vec![(config, vec![socket])]).unwrap_err();
    assert!(
        refused.starts_with("cannot share /nonexistent"),
        "{refused}"
    );
}

#[test]
fn a_machine_that_cannot_be_built_is_an_error() {
    let kvm: OwnedFd = File::open("/dev/null").unwrap().into();
    let (console, _owner) = UnixStream::pair().unwrap();
    let config = MachineConfig {
        vcpus: 1,
        max_vcpus: 1,
        memory: MemoryConfig::default(),
        cmdline: String::new(),
    };
    let files = MachineFiles {
        kvm,
        kernel: file(b""),
        initrd: file(b""),
        console: console.into(),
    };
    let mut service = VmmService::new(Instant::now());
    let refused = service.build(config, files, vec![]).err().unwrap();
    assert!(refused.contains("/dev/kvm has API version"), "{refused}");
}
