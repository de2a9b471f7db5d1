//! The reference of a pod's start: the same QEMU with the same machine, kernel
//! and initrd, and nothing of ours in the guest.
//!
//! The command line is that of a pod's own QEMU in this run, less the sockets
//! to other processes and the devices behind them. A second archive follows
//! the initrd (the kernel unpacks both); it holds busybox as `/echo`, which is
//! the init. The boot lasts from the start of QEMU to init's line on the
//! console.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::dist::patience;
use harness::run::{Input, Running};

const WORD: &str = "init-runs-here";

/// A bare machine, ready to be booted again and again.
pub struct Bare {
    program: OsString,
    args: Vec<OsString>,
    _initrd: tempfile::NamedTempFile,
}

impl Bare {
    /// Like the machine that the QEMU process `pid` runs.
    pub fn like(pid: u32) -> io::Result<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let mut words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| OsString::from_vec(word.to_vec()));
        let program = words
            .next()
            .ok_or_else(|| io::Error::other("QEMU has no command line"))?;
        let mut initrd = tempfile::NamedTempFile::new()?;
        let mut args = Vec::new();
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_default();
            match word.to_str().unwrap_or_default() {
                "-S" => {}
                "-chardev" | "-mon" => drop(value()),
                "-serial" => {
                    value();
                    args.extend([word, "stdio".into()]);
                }
                "-device" => {
                    let device = value();
                    if !device.to_string_lossy().starts_with("vhost-user") {
                        args.extend([word, device]);
                    }
                }
                "-append" => {
                    let mut cmdline = value();
                    cmdline.push(format!(" rdinit=/echo -- {WORD}"));
                    args.extend([word, cmdline]);
                }
                "-initrd" => {
                    write_initrd(&PathBuf::from(value()), initrd.as_file_mut())?;
                    args.extend([word, initrd.path().into()]);
                }
                _ => args.push(word),
            }
        }
        Ok(Self {
            program,
            args,
            _initrd: initrd,
        })
    }

    /// Boots it once.
    pub fn boot(&self) -> Duration {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        let since = std::time::Instant::now();
        let machine = Running::spawn(command, Input::Null);
        machine.stdout.expect(WORD, patience(120.0));
        since.elapsed()
    }
}

fn write_initrd(original: &Path, into: &mut fs::File) -> io::Result<()> {
    let bytes = fs::read(original)?;
    into.write_all(&bytes)?;
    // Archives begin at multiples of four (Documentation/driver-api/early-userspace/buffer-format.rst).
    into.write_all(&vec![0; bytes.len().next_multiple_of(4) - bytes.len()])?;
    into.write_all(&cpio("echo", 0o100_755, &fs::read("/bin/busybox")?))?;
    into.write_all(&cpio("TRAILER!!!", 0, &[]))
}

/// One entry of a "newc" cpio archive (buffer-format.rst).
fn cpio(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    let length = u32::try_from(data.len()).expect("a small file");
    let name_size = u32::try_from(name.len() + 1).expect("a short name");
    // ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
    for field in [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_size, 0] {
        entry.extend(format!("{field:08x}").bytes());
    }
    entry.extend(name.bytes().chain([0]));
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(data);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}
