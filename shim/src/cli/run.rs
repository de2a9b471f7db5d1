//! `rust-kata run`: creates a container, attaches to it and starts it.

use clap::Args as ClapArgs;
use runtime::engine::PodHandle;

use super::attach::{Client, Left, attach};
use super::container::create::create;
use super::container::spec::Options;
use super::context::Context;
use super::error::CliResult;
use super::failures::report_errors;
use super::interrupt::interruptible;
use super::output::print;
use super::preserve::Preserve;

/// Arguments of `run`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Pod of the container [default: a new one with the name of the container]
    #[arg(long, value_name = "POD")]
    pod: Option<String>,

    /// Run in the background and print the name of the container
    #[arg(long, short, conflicts_with_all = ["preserve_fds", "preserve_fd"])]
    detach: bool,

    #[command(flatten)]
    pub(crate) preserve: Preserve,

    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(context: &Context, args: Args) -> CliResult<u8> {
    let (pod, name) = create(context, args.pod.as_deref(), &args.options).await?;
    let rm = args.options.rm;
    if args.detach {
        let started = pod.start(std::slice::from_ref(&name), true);
        let started = match interruptible(started).await? {
            Ok(started) => started.map_err(Into::into).and_then(report_errors),
            Err(code) => return undo(&pod, &name, rm, code).await,
        };
        if started.is_err() && rm {
            remove(&pod, &name, false).await?;
        }
        started?;
        print(&format!("{name}\n"))?;
        return Ok(0);
    }
    let client = Client {
        stdin: args.options.interactive,
        tty: args.options.tty,
        preserved: args.preserve.into_preserved(),
        ..Client::default()
    };
    let left = attach(&pod, &name, true, client).await;
    if let Ok(Left::NotStarted(code)) = left {
        return undo(&pod, &name, rm, code).await;
    }
    if rm {
        remove(&pod, &name, false).await?;
    }
    left.map(Left::code)
}

/// Undoes a start that a signal interrupted with this exit code: the container does not run
/// after that. A further signal ends the wait for it, and the owner of the pod does it anyway.
async fn undo(pod: &PodHandle, name: &str, rm: bool, code: u8) -> CliResult<u8> {
    let undone = async {
        if rm {
            return remove(pod, name, true).await;
        }
        let stopped = pod.stop(&[name.to_owned()], Some(0)).await?;
        report_errors(stopped).map(drop)
    };
    match interruptible(undone).await? {
        Ok(undone) => undone.map(|()| code),
        Err(code) => Ok(code),
    }
}

/// Removes a container that never started, and the pod that was made for it. The owner removes
/// a container that has ended; a detached one runs and stays, unless `force`.
async fn remove(pod: &PodHandle, name: &str, force: bool) -> CliResult<()> {
    let names = [name.to_owned()];
    let seconds = force.then_some(0);
    if let Err(error) = pod.remove_containers(&names, force, seconds).await {
        log::debug!("Container {name}: {error}");
    }
    Ok(pod.remove_if_spent().await?)
}
