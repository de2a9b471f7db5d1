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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    fn parse(args: &[&str]) -> anyhow::Result<Options> {
        Options::parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn options_are_taken_in_any_order() {
        let all = ["--log", "debug", "--sockets", "/s", "--control-fd", "7"];
        let options = parse(&[&all[..], &["--share", "/d"]].concat()).unwrap();
        assert_eq!(options.control_fd, 7);
        assert_eq!(options.jail.share.to_str(), Some("/d"));
        assert_eq!(options.jail.sockets.to_str(), Some("/s"));
        assert_eq!(options.log, LevelFilter::Debug);
        let required = ["--control-fd", "9", "--share", "/d", "--sockets", "/s"];
        assert_eq!(parse(&required).unwrap().log, LevelFilter::Warn);
        for missing in [0, 2, 4] {
            let mut fewer = required.to_vec();
            fewer.drain(missing..missing + 2);
            let refused = parse(&fewer).err().unwrap().to_string();
            assert!(refused.starts_with("Usage: "), "{refused}");
        }
    }

    #[test]
    fn arguments_that_are_no_options_are_refused_by_name() {
        for (args, said) in [
            (&["--share"][..], "--share requires a value"),
            (&["--control-fd", "x"], "invalid descriptor"),
            (&["--log", "loud"], "invalid log level"),
            (&["--fast"], "unknown argument --fast"),
        ] {
            let refused = parse(args).err().unwrap().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
    }

    /// They end the process.
    #[test]
    fn version_and_help_are_printed() {
        const ASKED: &str = "RUST_KATA_TEST_ASKED";
        if let Ok(asked) = std::env::var(ASKED) {
            let _ = parse(&[&asked]);
            panic!("it went on");
        }
        for (option, line) in [
            (
                "--version",
                concat!("rust-kata-vmm ", env!("CARGO_PKG_VERSION")),
            ),
            ("--help", "Usage: rust-kata-vmm"),
            ("-h", "Usage: rust-kata-vmm"),
        ] {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "tests::version_and_help_are_printed",
                    "--nocapture",
                ])
                .env(ASKED, option)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{option}: {output:?}");
            assert!(said.contains(line), "{option}: {said}");
        }
    }

    #[test]
    fn the_control_socket_is_an_open_descriptor_that_is_not_passed_on() {
        for standard in 0..=2 {
            let refused = inherited(standard).unwrap_err().to_string();
            assert!(refused.contains("standard stream"), "{refused}");
        }
        let file = File::open("/dev/null").unwrap();
        // SAFETY: changes a flag of an open descriptor.
        assert_eq!(
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) },
            0
        );
        let number = file.into_raw_fd();
        let taken = inherited(number).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        // SAFETY: reads a flag of an open descriptor.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        // No process has so many.
        let refused = inherited(i32::MAX).unwrap_err();
        let errno = refused.downcast_ref::<io::Error>().unwrap().raw_os_error();
        assert_eq!(errno, Some(libc::EBADF));
    }
}
