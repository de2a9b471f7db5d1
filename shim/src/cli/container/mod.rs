//! `rust-kata container`: one file for each verb.

mod artifact;
mod attach;
mod cleanup;
mod cp;
pub(crate) mod create;
mod exec;
mod export;
mod init;
mod inspect;
mod kill;
pub(crate) mod limits;
mod logs;
mod ls;
mod mount;
mod mounts;
mod output_file;
mod pause;
mod restart;
mod rm;
mod session;
pub(crate) mod spec;
mod start;
mod stop;
mod top;
mod unmount;
mod unpause;
mod update;
mod wait;

use clap::Subcommand;

use super::context::Context;
use super::error::CliResult;
use super::preserve::Preserve;

/// `rust-kata container`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container in a new or an existing pod
    Create(Box<create::Create>),
    /// Set up containers in their pod's VM without starting them
    Init(init::Init),
    /// Start containers
    Start(start::Start),
    /// Stop containers
    Stop(stop::Stop),
    /// Restart containers
    Restart(restart::Restart),
    /// Pause containers
    Pause(pause::Pause),
    /// Unpause containers
    Unpause(unpause::Unpause),
    /// Send a signal to containers
    Kill(kill::Kill),
    /// Attach to a running container
    Attach(attach::Attach),
    /// Run a process in a running container
    ///
    /// Signals are passed on to the process. If it continues after INT, TERM or QUIT, the next one
    /// ends rust-kata alone, with exit code 128 + its number.
    Exec(exec::Exec),
    /// Wait for containers to end or to reach a state, and print their exit codes
    Wait(wait::Wait),
    /// Remove containers
    Rm(rm::Rm),
    /// List containers
    #[command(visible_alias = "ps", alias = "list")]
    Ls(ls::Ls),
    /// Show the configuration and state of containers as JSON
    Inspect(inspect::Inspect),
    /// List the processes of a container
    Top(top::Top),
    /// Show the output of a container
    Logs(logs::Logs),
    /// Change the limits of containers, at once and for later starts
    Update(update::Update),
    /// Remove what the last run of stopped containers has left
    Cleanup(cleanup::Cleanup),
    /// Manage the processes that `exec` has started in a container
    #[command(subcommand)]
    Session(session::Command),
    /// Mount the root file systems of containers on the host, and print the paths
    Mount(mount::Mount),
    /// Unmount the root file systems of containers
    #[command(visible_alias = "umount")]
    Unmount(unmount::Unmount),
    /// Export the root file system of a container as a tar archive
    Export(export::Export),
    /// Copy files between containers and the host
    Cp(cp::Cp),
    /// Manage files that are kept with a container, and that it cannot see
    #[command(subcommand)]
    Artifact(artifact::Command),
}

impl Command {
    /// The descriptors that the command passes to a process, if it can pass any.
    pub(crate) fn preserve(&mut self) -> Option<&mut Preserve> {
        match self {
            Self::Exec(exec) => Some(&mut exec.preserve),
            Self::Start(start) => Some(&mut start.preserve),
            _ => None,
        }
    }

    /// Runs the command and returns its exit code.
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        match self {
            Self::Start(start) => return start.run(context).await,
            Self::Attach(attach) => return attach.run(context).await,
            Self::Exec(exec) => return exec.run(context).await,
            Self::Ls(ls) => return ls.run(context),
            Self::Create(create) => create.run(context).await,
            Self::Init(init) => init.run(context).await,
            Self::Stop(stop) => stop.run(context).await,
            Self::Restart(restart) => restart.run(context).await,
            Self::Pause(pause) => pause.run(context).await,
            Self::Unpause(unpause) => unpause.run(context).await,
            Self::Kill(kill) => kill.run(context).await,
            Self::Wait(wait) => wait.run(context).await,
            Self::Rm(rm) => rm.run(context).await,
            Self::Inspect(inspect) => inspect.run(context),
            Self::Top(top) => top.run(context).await,
            Self::Logs(logs) => logs.run(context).await,
            Self::Update(update) => update.run(context).await,
            Self::Cleanup(cleanup) => cleanup.run(context).await,
            Self::Session(command) => command.run(context).await,
            Self::Mount(mount) => mount.run(context).await,
            Self::Unmount(unmount) => unmount.run(context).await,
            Self::Export(export) => export.run(context).await,
            Self::Cp(cp) => cp.run(context).await,
            Self::Artifact(command) => command.run(context),
        }?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
