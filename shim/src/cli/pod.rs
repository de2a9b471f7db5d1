//! `rust-kata pod`.

use clap::{Args, Subcommand};
use runtime::engine::PodHandle;

use super::Context;
use super::batch::Batch;
use super::error::{CliResult, settle};
use super::events::Events;
use super::output::print;
use super::pod_create::Create;
use super::pod_logs::PodLogs;
use super::pods::{Ls, inspect};
use super::progress::patiently;
use super::spec::signal;
use super::stats::Stats;
use super::top::{PodTop, top_of};

/// `rust-kata pod`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Creates a pod without containers
    Create(Box<Create>),
    /// Creates a pod without containers, and starts it
    Run(Box<Create>),
    /// Starts the containers of pods, each after those that it depends on
    Start(Pods),
    /// Stops the containers of pods, and their VMs
    Stop(Stop),
    /// Stops and starts the containers of pods
    Restart(Stop),
    /// Freezes the containers of pods
    Pause(Pods),
    /// Thaws the containers of pods
    Unpause(Pods),
    /// Sends a signal to the containers of pods
    Kill(Kill),
    /// Removes pods
    Rm(Rm),
    /// Lists pods
    #[command(visible_alias = "ps", alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about pods, as JSON
    Inspect(Pods),
    /// Shows what containers and their VMs use
    Stats(Stats),
    /// Lists the processes of a pod's containers
    Top(PodTop),
    /// Shows what the containers of a pod have said, each line with its container's name
    Logs(PodLogs),
    /// Makes changes of a pod one after the other, with nobody else's in between
    Batch(Batch),
    /// Asks the guest how containers stand, and corrects what is on record
    Sync(Pods),
    /// Shows what happened to pods and their containers
    Events(PodEvents),
}

/// Which pods.
#[derive(Debug, Args)]
pub(super) struct Pods {
    /// Pods by name, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub(super) pods: Vec<String>,

    /// All pods
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    pods: Pods,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    #[command(flatten)]
    pods: Pods,

    /// The signal
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    pods: Pods,

    /// Stop and remove its containers; also for a pod whose files are damaged
    #[arg(long, short)]
    force: bool,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct PodEvents {
    /// Pods by name [default: all]
    #[arg(value_name = "POD")]
    pods: Vec<String>,

    #[command(flatten)]
    events: Events,
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<u8> {
    match command {
        Command::Create(create) => {
            let pod = create.run(context)?;
            print(&format!("{}\n", pod.name()))
        }
        Command::Run(create) => {
            let pod = create.run(context)?;
            let doing = format!("Starting pod {}", pod.name());
            settle(patiently(doing, pod.start(&[], true)).await?)?;
            print(&format!("{}\n", pod.name()))
        }
        Command::Top(top) => top_of(context, &top).await,
        Command::Logs(logs) => logs.run(context),
        Command::Batch(batch) => batch.run(context).await,
        Command::Sync(pods) => {
            each(context, &pods, "Asking", async |pod| {
                settle(pod.sync(&[]).await?)
            })
            .await
        }
        Command::Ls(ls) => return ls.run(context),
        Command::Inspect(pods) => return inspect(context, &pods),
        Command::Stats(stats) => stats.run(context).await,
        Command::Events(mut args) => {
            args.events.of_pods(&args.pods);
            args.events.run(context)
        }
        Command::Start(pods) => {
            each(context, &pods, "Starting", async |pod| {
                settle(pod.start(&[], true).await?)
            })
            .await
        }
        Command::Stop(stop) => {
            each(context, &stop.pods, "Stopping", async |pod| {
                settle(pod.stop(&[], stop.time).await?)
            })
            .await
        }
        Command::Restart(stop) => {
            let again = async |pod: &PodHandle| settle(pod.restart(&[], stop.time).await?);
            each(context, &stop.pods, "Restarting", again).await
        }
        Command::Pause(pods) => {
            each(context, &pods, "Pausing", async |pod| {
                settle(pod.pause(&[]).await?)
            })
            .await
        }
        Command::Unpause(pods) => {
            each(context, &pods, "Unpausing", async |pod| {
                settle(pod.unpause(&[]).await?)
            })
            .await
        }
        Command::Kill(kill) => {
            let send =
                async |pod: &PodHandle| settle(pod.kill(&[], kill.signal as u32, false).await?);
            each(context, &kill.pods, "Killing", send).await
        }
        Command::Rm(rm) => {
            let remove = async |pod: &PodHandle| {
                pod.remove(rm.force, rm.time).await?;
                Ok(Vec::new())
            };
            each(context, &rm.pods, "Removing", remove).await
        }
    }?;
    Ok(0)
}

/// Does something to each pod, whatever happens to the others, and tells the
/// names of those for which it worked.
async fn each(
    context: &Context,
    pods: &Pods,
    doing: &str,
    work: impl AsyncFn(&PodHandle) -> CliResult<Vec<String>>,
) -> CliResult<()> {
    let mut last = None;
    for pod in pods.handles(context) {
        let (name, result) = match pod {
            Ok(pod) => {
                let name = pod.name().to_owned();
                let result = patiently(format!("{doing} pod {name}"), work(&pod)).await;
                (name, result)
            }
            Err((name, error)) => (name, Err(error)),
        };
        if let Some(error) = last.take() {
            crate::terminal::say(&format!("{error}"));
        }
        match result {
            Ok(_) => print(&format!("{name}\n"))?,
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(()), Err)
}

impl Pods {
    pub(super) fn handles(
        &self,
        context: &Context,
    ) -> Vec<Result<PodHandle, (String, crate::error::Error)>> {
        let mut names = self.pods.clone();
        if self.all {
            match context.engine.pod_names(context.namespace.as_deref()) {
                Ok(all) => return all.into_iter().map(Ok).collect(),
                Err(error) => return vec![Err((String::new(), error.into()))],
            }
        }
        names.dedup();
        let found = names
            .into_iter()
            .map(|name| context.pod(&name).map_err(|e| (name, e)));
        found.collect()
    }
}
