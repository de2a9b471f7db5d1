//! A machine for tests, whose "kernel" is a few instructions.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use test_support::{kvm, require};

use super::{Ending, GuestExit, Machine, MachineConfig, MachineFiles, MemoryConfig};

/// The address of the code of [`elf`].
pub const ENTRY: u64 = 1 << 20;

/// An ELF file with `code` as its only segment, and the entry at its first byte.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const OFFSET: usize = 0x1000;
    let mut image = vec![0; OFFSET];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]); // executable, x86-64, version 1
    put(24, &ENTRY.to_le_bytes());
    put(32, &64u64.to_le_bytes()); // where the program headers are
    put(52, &[64, 0, 56, 0, 1]); // sizes of the headers, one program header
    put(64, &[1, 0, 0, 0, 7]); // load, to be read, written and run
    put(72, &(OFFSET as u64).to_le_bytes());
    put(80, &ENTRY.to_le_bytes());
    put(88, &ENTRY.to_le_bytes());
    put(96, &(code.len() as u64).to_le_bytes());
    put(104, &(code.len() as u64).to_le_bytes());
    image.extend_from_slice(code);
    image
}

/// A file that holds `bytes`.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Waits for the guest's end.
pub fn end(ending: &Ending) -> GuestExit {
    let fd = PollFd::new(ending.as_fd(), PollFlags::POLLIN);
    let ready = poll(&mut [fd], PollTimeout::from(20_000u16)).unwrap();
    assert!(ready > 0, "the guest goes on and on");
    ending.taken().unwrap()
}

/// A machine, and the other end of its console.
pub struct Guest {
    pub machine: Machine,
    pub console: UnixStream,
}

impl Guest {
    /// A machine that will run `code` in 64-bit mode; without KVM `None`, after `require!` has
    /// reported it.
    pub fn new(code: &[u8], vcpus: u32) -> Option<Guest> {
        Guest::with(code, vcpus, 0)
    }

    /// The same, with memory that can be plugged.
    pub fn with(code: &[u8], vcpus: u32, hotplug_mib: u32) -> Option<Guest> {
        let kvm = require!(kvm());
        let (console, theirs) = UnixStream::pair().unwrap();
        let config = MachineConfig {
            vcpus: 1,
            max_vcpus: vcpus,
            memory: MemoryConfig {
                mib: 4,
                hotplug_mib,
                shared: true,
                ..Default::default()
            },
            cmdline: "hello".into(),
        };
        let files = MachineFiles {
            kvm,
            kernel: file(&elf(code)).into(),
            initrd: file(b"initrd").into(),
            console: theirs.into(),
        };
        let machine = Machine::new(&config, files, Instant::now()).unwrap();
        Some(Guest { machine, console })
    }

    /// Waits for the guest's end.
    pub fn end(&self) -> GuestExit {
        end(&self.machine.ending())
    }

    /// Ends the machine; returns what the guest wrote to its console.
    pub fn output(mut self) -> String {
        drop(self.machine);
        let mut text = String::new();
        self.console
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        self.console.read_to_string(&mut text).unwrap();
        text
    }
}
