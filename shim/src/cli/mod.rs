//! `rust-kata`: pods, containers and images for people, with podman's words.
//!
//! Each object has a file of its own with its subcommands; all of them call
//! the engine (`runtime::engine`), which any other program may embed as well.

mod attach;
mod batch;
mod check;
mod config;
mod container;
mod containers;
mod create;
mod error;
mod events;
mod files;
mod filter;
pub(crate) mod foreign;
mod help;
mod image;
mod logs;
mod man;
mod mounts;
mod output;
mod pod;
mod pod_create;
mod pod_logs;
mod pods;
mod preserve;
mod progress;
mod pull;
mod run;
mod session;
mod spec;
mod start;
mod stats;
mod top;
mod update;
mod volume;
mod wait;
mod written;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use runtime::Config;
use runtime::engine::Engine;

use self::error::{CliResult, exit_code};
use crate::error::Context as _;

/// Pods and containers in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(name = "rust-kata", version)]
struct Cli {
    /// A configuration file, instead of $RUST_KATA_CONFIG, /etc/rust-kata/config.toml or the
    /// one installed with this binary
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Options of all commands"
    )]
    config: Option<PathBuf>,

    /// Only pods of this namespace; new ones are made in it [default: local]
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
    /// Pods: create, start, stop, list …
    #[command(subcommand)]
    Pod(pod::Command),
    /// Containers of pods: create, start, stop, exec …
    #[command(subcommand, visible_alias = "ctr")]
    Container(container::Command),
    /// Those of `container` without that word, as podman has them
    #[command(flatten)]
    Plain(container::Command),
    /// Images: pull, load, list, remove …
    #[command(subcommand)]
    Image(image::Command),
    /// Volumes: create, list, remove …
    #[command(subcommand)]
    Volume(volume::Command),
    /// Creates a container, in a new pod or a given one, and starts it
    Run(Box<run::Args>),
    /// Shows what happened to pods and containers, and what goes on happening
    Events(events::Events),
    /// Tells whether pods can run on this machine, and what to do if not; 1 if not
    Check(check::Check),
    /// The configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Writes a shell's completions to stdout
    Completion {
        /// bash, zsh, fish …
        shell: clap_complete::Shell,
    },
    /// Writes the man pages into a directory
    #[command(hide = true)]
    Man { dir: PathBuf },
    /// Owns a pod; started by the others
    #[command(hide = true)]
    #[command(name = runtime::engine::OWN)]
    Own { namespace: String, pod: String },
}

/// What all subcommands share.
struct Context {
    engine: Engine,
    /// The namespace asked for.
    namespace: Option<String>,
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(runtime::container::pid_proxy::ARGUMENT) {
        runtime::container::pid_proxy::main();
    }
    // Who asks for no help is not kept waiting until all of it has been put together.
    let parsed = parse(Cli::command()).or_else(|_| parse(help::with_examples(Cli::command())));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(problem) => {
            let _ = problem.print();
            return ExitCode::from(problem.exit_code() as u8);
        }
    };
    let result = run(cli);
    // Before the message: it is to start at the left.
    crate::terminal::restore();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rust-kata: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
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
    // Before anything is opened.
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
            Command::Pod(command) => pod::run(&context, command).await,
            Command::Container(command) | Command::Plain(command) => {
                container::run(&context, command).await
            }
            Command::Image(command) => image::run(&context, command).await.map(|()| 0),
            Command::Volume(command) => volume::run(&context, command).await.map(|()| 0),
            Command::Run(args) => run::run(&context, *args).await,
            Command::Events(events) => events.run(&context).map(|()| 0),
            Command::Check(check) => check.run(&context),
            Command::Config(_)
            | Command::Completion { .. }
            | Command::Man { .. }
            | Command::Own { .. } => Ok(0),
        }
    });
    // A read of the terminal cannot be called back: do not wait for it.
    tokio.shutdown_background();
    result
}

/// A container that was asked for.
enum Either {
    /// Of the engine's.
    Ours(runtime::engine::PodHandle, String),
    /// Of another front door.
    Theirs(Box<self::foreign::Theirs>),
}

/// A pod that was asked for.
enum EitherPod {
    /// Of the engine's.
    Ours(runtime::engine::PodHandle),
    /// Of another front door.
    Theirs(Box<runtime::engine::foreign::ListedPod>),
}

impl Context {
    fn new_namespace(&self) -> &str {
        self.namespace
            .as_deref()
            .unwrap_or(runtime::engine::NAMESPACE)
    }

    /// A pod of ours; one of another front door is refused with the cure.
    fn pod(&self, wanted: &str) -> CliResult<runtime::engine::PodHandle> {
        match self.either_pod(wanted)? {
            EitherPod::Ours(pod) => Ok(pod),
            EitherPod::Theirs(pod) => Err(pod.refusal(&pod.config.id).into()),
        }
    }

    /// A pod of any front door.
    fn either_pod(&self, wanted: &str) -> CliResult<EitherPod> {
        match self.engine.find_pod(self.namespace.as_deref(), wanted) {
            Err(e @ runtime::Error::NotFound { .. }) => match self::foreign::pod(self, wanted)? {
                Some(pod) => Ok(EitherPod::Theirs(Box::new(pod))),
                None => Err(e.into()),
            },
            other => Ok(EitherPod::Ours(other?)),
        }
    }

    /// A container of ours; one of another front door is refused with the cure.
    fn container(&self, wanted: &str) -> CliResult<(runtime::engine::PodHandle, String)> {
        match self.either(wanted)? {
            Either::Ours(pod, name) => Ok((pod, name)),
            Either::Theirs(theirs) => Err(theirs.pod.refusal(&theirs.container).into()),
        }
    }

    /// A container of any front door.
    fn either(&self, wanted: &str) -> CliResult<Either> {
        let found = self
            .engine
            .find_container(self.namespace.as_deref(), wanted);
        match found {
            Ok((pod, name)) => Ok(Either::Ours(pod, name)),
            Err(e @ runtime::Error::NotFound { .. }) => {
                match self::foreign::container(self, wanted)? {
                    Some(theirs) => Ok(Either::Theirs(Box::new(theirs))),
                    None => Err(e.into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }
}
