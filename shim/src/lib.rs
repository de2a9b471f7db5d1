//! The programs of rust-kata: `containerd-shim-rust-kata-v2`, the shim that containerd starts
//! (its command `run` works without containerd), and `rust-kata`, the command line.
//!
//! ```text
//! containerd ── start ──▶ the shim: binds the socket, starts the server, prints the address
//!            ── ttrpc ──▶ the server: one process per pod             (serve, owner, task)
//!            ◀─ events ── the server                                  (events, publisher)
//!            ── delete ─▶ the shim: cleans up in every case           (delete, client)
//! user       ── run ────▶ the shim: owns a pod for one bundle         (run, terminal, signals)
//! runtime    ── hold ───▶ both programs: stand for a guest's process
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
containerd-shim-rust-kata-v2: run containers in virtual machines, one per pod

With containerd: add this binary's directory to containerd's PATH, then run
  ctr run --rm --runtime io.containerd.rust-kata.v2 IMAGE NAME COMMAND...
containerd itself calls:
  containerd-shim-rust-kata-v2 -namespace NS -address SOCKET -publish-binary P -id ID [-debug] start
  containerd-shim-rust-kata-v2 -namespace NS -address SOCKET -id ID -bundle DIR delete

Without containerd:
  containerd-shim-rust-kata-v2 run --bundle DIR [--verbose]
  containerd-shim-rust-kata-v2 run --help       show help with examples

Also:
  -v, --version                                 print the version
  -info                                         print the features of this runtime (protobuf)

Configuration: the first of $RUST_KATA_CONFIG, /etc/rust-kata/config.toml and
../share/rust-kata/config.toml, relative to this binary's directory.
";

/// Runs `containerd-shim-rust-kata-v2`.
pub fn shim_main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    match words.peek().map(String::as_str) {
        Some("hold") => runtime::container::pid_proxy::main(),
        Some("run") => return ExitCode::from(run::run(words)),
        None | Some("help" | "-h" | "-help" | "--help") => {
            // A closed stdout, as with `| head`, is not a failure.
            let _ = std::io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    match containerd(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows its user what `start` writes here; the server's stderr goes to
            // the log.
            log::error!("{error}");
            let _ = writeln!(std::io::stderr(), "rust-kata: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `rust-kata`.
#[cfg(feature = "cli")]
pub fn cli_main() -> ExitCode {
    cli::main()
}

/// Runs the action that containerd asks for.
fn containerd(words: impl Iterator<Item = String>) -> error::Result<()> {
    let flags = Flags::parse(words)?;
    if flags.version {
        // The name comes first, as containerd's own shims print it.
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
