//! `rust-kata`, the command line for pods, containers, images and volumes, in podman's terms.
//!
//! Each noun is a folder with one file for each verb. All commands call the engine
//! (`runtime::engine`), which other programs can embed as well.

mod arguments;
mod attach;
mod check;
mod config;
mod container;
mod context;
mod error;
mod events;
mod failures;
mod filter;
mod foreign;
mod help;
mod image;
mod interrupt;
mod log_reader;
mod man;
mod output;
mod pod;
mod preserve;
mod processes;
mod progress;
mod pull;
mod run;
mod select;
mod side_by_side;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod values;
mod volume;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use runtime::Config;
use runtime::engine::Engine;

use self::context::Context;
use self::error::{CliResult, exit_code};
use crate::error::{Context as _, Error};

/// Manage pods and containers in virtual machines
#[derive(Debug, Parser)]
#[command(name = "rust-kata", version)]
struct Cli {
    /// Configuration file, instead of $RUST_KATA_CONFIG, /etc/rust-kata/config.toml or the
    /// one installed with this binary
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Options of all commands"
    )]
    config: Option<PathBuf>,

    /// Namespace of pods to show and to create [default: all; new pods: local]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Options of all commands"
    )]
    namespace: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage pods
    #[command(subcommand)]
    Pod(pod::Command),
    /// Manage containers
    #[command(subcommand, visible_alias = "ctr")]
    Container(container::Command),
    /// Commands of `container` without that word, as in podman
    #[command(flatten)]
    Plain(container::Command),
    /// Manage images
    #[command(subcommand)]
    Image(image::Command),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Create and start a container in a new or an existing pod
    Run(Box<run::Args>),
    /// Show events of pods and containers
    Events(events::Events),
    /// Check whether pods can run on this machine; exit code 1 if not
    Check(check::Check),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Generate shell completions on stdout
    Completion {
        /// Shell: bash, zsh, fish or another
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man { dir: PathBuf },
    /// Own a pod; started by the other commands
    #[command(hide = true)]
    #[command(name = runtime::engine::OWN)]
    Own { namespace: String, pod: String },
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(runtime::container::pid_proxy::ARGUMENT) {
        runtime::container::pid_proxy::main();
    }
    // The full help is built only if the first parse fails: it takes time.
    let parsed = parse(Cli::command()).or_else(|_| parse(help::with_examples(Cli::command())));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(problem) => {
            let _ = problem.print();
            return ExitCode::from(problem.exit_code() as u8);
        }
    };
    let result = run(cli);
    // Before the message, so that it starts in the first column.
    crate::terminal::restore();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(report(&error)),
    }
}

/// Prints the error of a command, unless it was printed as it came; returns the exit code.
fn report(error: &Error) -> u8 {
    if !matches!(error, Error::Reported { .. }) {
        let _ = writeln!(std::io::stderr(), "rust-kata: {error}");
    }
    exit_code(error)
}

fn parse(command: clap::Command) -> Result<Cli, clap::Error> {
    let matches = command.try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

impl Command {
    fn preserve(&mut self) -> Option<&mut preserve::Preserve> {
        match self {
            Command::Container(command) | Command::Plain(command) => command.preserve(),
            Command::Run(args) => Some(&mut args.preserve),
            _ => None,
        }
    }
}

fn run(mut cli: Cli) -> CliResult<u8> {
    // Before any other descriptor is opened.
    if let Some(preserve) = cli.command.preserve() {
        preserve.take()?;
    }
    if let Command::Completion { shell } = cli.command {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "rust-kata", &mut text);
        return output::print(&String::from_utf8_lossy(&text)).map(|()| 0);
    }
    if let Command::Man { dir } = &cli.command {
        return man::write(&help::with_examples(Cli::command()), dir).map(|()| 0);
    }
    if let Command::Config(command) = &cli.command {
        return command.run(cli.config.as_deref()).map(|()| 0);
    }
    let config = Config::load(cli.config.as_deref())?;
    let file = cli
        .config
        .map(|file| file.canonicalize().on("open", &file))
        .transpose()?;
    let engine = Engine::new(config, file.as_deref())?;
    if let Command::Own { namespace, pod } = &cli.command {
        return crate::manage::own::run(&engine, namespace, pod).map(|()| 0);
    }
    let context = Context {
        engine,
        namespace: cli.namespace,
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("start the runtime's threads")?;
    let result = tokio.block_on(async {
        match cli.command {
            Command::Pod(command) => command.run(&context).await,
            Command::Container(command) | Command::Plain(command) => command.run(&context).await,
            Command::Image(command) => command.run(&context).await.map(|()| 0),
            Command::Volume(command) => command.run(&context).await.map(|()| 0),
            Command::Run(args) => run::run(&context, *args).await,
            Command::Events(events) => events.run(&context).map(|()| 0),
            Command::Check(check) => check.run(&context),
            Command::Config(_)
            | Command::Completion { .. }
            | Command::Man { .. }
            | Command::Own { .. } => Ok(0),
        }
    });
    // A read of the terminal cannot be cancelled: do not wait for it.
    tokio.shutdown_background();
    result
}
