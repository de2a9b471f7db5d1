//! `rust-kata pod`: one file for each verb.

mod batch;
mod create;
mod events;
mod inspect;
mod kill;
mod logs;
mod ls;
mod pause;
mod restart;
mod rm;
mod run;
mod start;
mod stats;
mod stop;
mod sync;
mod top;
mod unpause;

use clap::Subcommand;

use super::context::Context;
use super::error::CliResult;

/// `rust-kata pod`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a pod without containers
    Create(Box<create::Create>),
    /// Create a pod without containers and start it
    Run(Box<run::Run>),
    /// Start the containers of pods, each after the ones it depends on
    Start(start::Start),
    /// Stop the containers of pods and their VMs
    Stop(stop::Stop),
    /// Restart the containers of pods
    Restart(restart::Restart),
    /// Pause the containers of pods
    Pause(pause::Pause),
    /// Unpause the containers of pods
    Unpause(unpause::Unpause),
    /// Send a signal to the containers of pods
    Kill(kill::Kill),
    /// Remove pods and their containers
    Rm(rm::Rm),
    /// List pods
    #[command(visible_alias = "ps", alias = "list")]
    Ls(ls::Ls),
    /// Show the configuration and state of pods as JSON
    Inspect(inspect::Inspect),
    /// Show the resource usage of containers and their VMs
    Stats(stats::Stats),
    /// List the processes of the containers of a pod
    Top(top::Top),
    /// Show the output of the containers of a pod, with the name of the container on each line
    Logs(logs::Logs),
    /// Make several changes of a pod without changes by others in between
    Batch(batch::Batch),
    /// Correct the recorded state of containers by querying the guest
    Sync(sync::Sync),
    /// Show events of pods and their containers
    Events(events::PodEvents),
}

impl Command {
    /// Runs the command and returns its exit code.
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        match self {
            Self::Ls(ls) => return ls.run(context),
            Self::Run(run) => return run.run(context).await,
            Self::Create(create) => create.run(context),
            Self::Start(start) => start.run(context).await,
            Self::Stop(stop) => stop.run(context).await,
            Self::Restart(restart) => restart.run(context).await,
            Self::Pause(pause) => pause.run(context).await,
            Self::Unpause(unpause) => unpause.run(context).await,
            Self::Kill(kill) => kill.run(context).await,
            Self::Rm(rm) => rm.run(context).await,
            Self::Inspect(inspect) => inspect.run(context),
            Self::Stats(stats) => stats.run(context).await,
            Self::Top(top) => top.run(context).await,
            Self::Logs(logs) => logs.run(context),
            Self::Batch(batch) => batch.run(context).await,
            Self::Sync(sync) => sync.run(context).await,
            Self::Events(events) => events.run(context),
        }?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
