//! The reference for a pod's start: the same QEMU with the same machine, kernel and initrd,
//! without rust-kata in the guest.
//!
//! The command line is that of a pod's own QEMU in this run, without the sockets to other
//! processes and the devices that use them. The init prints a word. The measured time is from
//! the start of QEMU until that word is on the console.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::dist::patience;
use harness::initrd::{WORD, arguments, with_init};
use harness::run::{Input, Running};

/// A bare machine that can be booted repeatedly.
pub struct Bare {
    program: OsString,
    args: Vec<OsString>,
    _initrd: Option<tempfile::NamedTempFile>,
}

impl Bare {
    /// A machine like that of the QEMU process `pid`.
    pub fn like(pid: u32) -> io::Result<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let mut words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| OsString::from_vec(word.to_vec()));
        let program = words
            .next()
            .ok_or_else(|| io::Error::other("QEMU has no command line"))?;
        let mut initrd = None;
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
                    cmdline.push(format!(" {}", arguments()));
                    args.extend([word, cmdline]);
                }
                "-initrd" => {
                    let file = with_init(&PathBuf::from(value()))?;
                    args.extend([word, file.path().into()]);
                    initrd = Some(file);
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
