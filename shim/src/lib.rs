//! The programs of rust-kata: `containerd-shim-rust-kata-v2`, the shim that containerd
//! starts (with `run` for use without containerd), and `rust-kata`, the command line.
//!
//! ```text
//! containerd ── start ──▶ the shim: binds the socket, starts the server, prints the address
//!            ── ttrpc ──▶ the server: one process for each pod        (serve, owner, task)
//!            ◀─ events ── the same                                    (events, publisher)
//!            ── delete ─▶ the shim: cleans up, whatever happened      (delete, client)
//! user       ── run ────▶ the shim: owns a pod for one bundle         (run, terminal, signals)
//! runtime    ── hold ───▶ either: stands for a process of the guest
//! operator   ───────────▶ rust-kata: pods, containers, images         (cli)
//! ```
#![deny(missing_docs)]

#[cfg(feature = "cli")]
mod cli;
pub(crate) mod containerd;
mod descriptors;
mod error;
mod logger;
mod manage;
pub(crate) mod reap;
mod run;
mod signals;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use crate::containerd::flags::Flags;

const HELP: &str = "\
containerd-shim-rust-kata-v2: containers in virtual machines, one for each pod

With containerd: put this binary's directory into containerd's PATH, then
  ctr run --rm --runtime io.containerd.rust-kata.v2 IMAGE NAME COMMAND...
containerd itself calls:
  containerd-shim-rust-kata-v2 -namespace NS -address SOCKET -publish-binary P -id ID [-debug] start
  containerd-shim-rust-kata-v2 -namespace NS -address SOCKET -id ID -bundle DIR delete

Without containerd:
  containerd-shim-rust-kata-v2 run --bundle DIR [--verbose]
  containerd-shim-rust-kata-v2 run --help       explains it, with examples

Also:
  -v, --version                                 prints the version
  -info                                         prints what it can do, as containerd asks for it (protobuf)

The configuration is the first of $RUST_KATA_CONFIG, /etc/rust-kata/config.toml
and ../share/rust-kata/config.toml beside this binary's directory.
";

/// The whole of `containerd-shim-rust-kata-v2`.
pub fn shim_main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    match words.peek().map(String::as_str) {
        Some("hold") => runtime::container::pid_proxy::main(),
        Some("run") => return ExitCode::from(run::run(words)),
        None | Some("help" | "-h" | "-help" | "--help") => {
            // `| head` is no failure.
            let _ = std::io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    match containerd(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows what `start` writes here to its user; the
            // server's goes to the log.
            log::error!("{error}");
            let _ = writeln!(std::io::stderr(), "rust-kata: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole of `rust-kata`.
#[cfg(feature = "cli")]
pub fn cli_main() -> ExitCode {
    cli::main()
}

/// The actions that containerd asks for.
fn containerd(words: impl Iterator<Item = String>) -> error::Result<()> {
    let flags = Flags::parse(words)?;
    if flags.version {
        // The name first, as containerd's own shims print it.
        println!("containerd-shim-rust-kata-v2 {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if flags.info {
        return containerd::info::run();
    }
    match flags.action.as_str() {
        "start" => containerd::start::run(flags),
        "delete" => containerd::delete::run(&flags),
        "" => containerd::serve::run(&flags),
        other => Err(containerd::flags::FlagError::Extra(other.to_owned()).into()),
    }
}
