//! `rust-kata-vmm`: serves the virtio devices of one virtual machine.
//!
//! Started by the owner of a VM with an inherited control socket, see
//! [`hypervisor::control`]. Ends when told to, or when the socket closes.

use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use log::{LevelFilter, Log, Metadata, Record};

use hypervisor::control::{DeviceConfig, DeviceStatus, Server, Service};
use hypervisor::jail::Jail;
use hypervisor::transport::vhost_user::VhostUser;
use hypervisor::virtio::Device;
use hypervisor::virtio::fs::Fs;
use hypervisor::virtio::vsock::Vsock;

const USAGE: &str = "Usage: rust-kata-vmm --control-fd FD --share DIR --sockets DIR [--log LEVEL]

Serves the virtio devices of one virtual machine. Started by rust-kata; there is
nothing in it for people.";

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    log::set_logger(&Stderr)?;
    log::set_max_level(options.log);
    limit_memory();
    let control = inherited(options.control_fd)?;
    options.jail.enter()?;
    let server = Server::new(control, Devices::default()).context("Bad control channel")?;
    server.run().context("The control channel failed")
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
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--control-fd" => control_fd = Some(value()?.parse().context("Bad descriptor")?),
                "--share" => share = Some(value()?.into()),
                "--sockets" => sockets = Some(value()?.into()),
                "--log" => log = value()?.parse().context("Bad log level")?,
                "--version" => {
                    println!("rust-kata-vmm {}", env!("CARGO_PKG_VERSION"));
                    std::process::exit(0);
                }
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                _ => bail!("Unknown argument {arg}\n{USAGE}"),
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
    // SAFETY: it is open, was given to us for this, and nothing else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The devices that this process serves.
#[derive(Default)]
struct Devices {
    running: Vec<(&'static str, VhostUser)>,
}

impl Service for Devices {
    fn start(&mut self, devices: Vec<(DeviceConfig, OwnedFd)>) -> Result<(), String> {
        for (config, socket) in devices {
            let (name, device) = make(&config)?;
            let server = VhostUser::serve(device, UnixStream::from(socket))
                .map_err(|err| format!("Cannot serve {name}: {err}"))?;
            self.running.push((name, server));
        }
        Ok(())
    }

    fn status(&self) -> Vec<DeviceStatus> {
        self.running
            .iter()
            .map(|(name, server)| DeviceStatus {
                kind: (*name).into(),
                connected: server.is_connected(),
            })
            .collect()
    }

    fn stop(&mut self) {
        self.running.clear();
    }
}

fn make(config: &DeviceConfig) -> Result<(&'static str, Box<dyn Device>), String> {
    match config {
        DeviceConfig::Vsock { cid, uds } => {
            let vsock = Vsock::new(*cid, uds)
                .map_err(|err| format!("Cannot listen on {}: {err}", uds.display()))?;
            Ok(("vsock", Box::new(vsock)))
        }
        DeviceConfig::Fs { tag, dir } => {
            let fs = Fs::new(tag, dir)
                .map_err(|err| format!("Cannot share {}: {err}", dir.display()))?;
            Ok(("fs", Box::new(fs)))
        }
    }
}

/// A handful of threads that allocate little: one arena each would only waste memory.
fn limit_memory() {
    // SAFETY: sets a parameter of the allocator; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Logs to standard error, which the owner keeps.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The FUSE library prints what a guest sends; that is for debugging only.
        metadata.level() <= log::max_level()
            && (log::max_level() >= LevelFilter::Debug
                || !metadata.target().starts_with("fuse_backend_rs"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!(
                "{} {}: {}\n",
                record.level(),
                record.target(),
                record.args()
            );
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
