//! `rust-kata-vmm`: runs one virtual machine on KVM, or serves the devices of one that
//! QEMU runs.
//!
//! Started by the owner of a VM with an inherited control socket, see
//! [`hypervisor::control`]. Ends with the guest, on request, or when the socket closes.

mod device;
mod logger;
mod service;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use anyhow::{Context, bail};
use log::LevelFilter;

use hypervisor::control::Server;
use hypervisor::jail::Jail;
use logger::Stderr;
use service::VmmService;

const USAGE: &str = "Usage: rust-kata-vmm --control-fd FD --share DIR --sockets DIR [--log LEVEL]

Runs one virtual machine, or serves its devices. Started by rust-kata; there is
nothing in it for people.";

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let options = Options::parse(std::env::args().skip(1))?;
    log::set_logger(&Stderr)?;
    log::set_max_level(options.log);
    limit_memory();
    let control = inherited(options.control_fd)?;
    options.jail.enter()?;
    let server =
        Server::new(control, VmmService::new(started)).context("cannot use the control channel")?;
    server.run().context("the control channel failed")
}

struct Options {
    control_fd: RawFd,
    jail: Jail,
    log: LevelFilter,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
        let (mut control_fd, mut share, mut sockets) = (None, None, None);
        let mut log = LevelFilter::Warn;
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("{arg} requires a value"))
            };
            match arg.as_str() {
                "--control-fd" => {
                    control_fd = Some(value()?.parse().context("invalid descriptor")?)
                }
                "--share" => share = Some(value()?.into()),
                "--sockets" => sockets = Some(value()?.into()),
                "--log" => log = value()?.parse().context("invalid log level")?,
                "--version" => {
                    println!("rust-kata-vmm {}", env!("CARGO_PKG_VERSION"));
                    std::process::exit(0);
                }
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                _ => bail!("unknown argument {arg}\n{USAGE}"),
            }
        }
        Ok(Options {
            control_fd: control_fd.context(USAGE)?,
            jail: Jail {
                share: share.context(USAGE)?,
                sockets: sockets.context(USAGE)?,
            },
            log,
        })
    }
}

fn inherited(fd: RawFd) -> anyhow::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        bail!("--control-fd {fd} is a standard stream");
    }
    // SAFETY: asks for flags only.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error()).context("--control-fd");
    }
    // SAFETY: it is open, was passed for this use, and has no other owner here.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process has few threads that allocate little; an arena for each would waste memory.
fn limit_memory() {
    // SAFETY: sets a parameter of the allocator; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
