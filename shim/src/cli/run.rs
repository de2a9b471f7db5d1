//! `rust-kata run`: creates a container, attaches to it and starts it.

use clap::Args as ClapArgs;
use runtime::engine::PodHandle;

use super::attach::{Client, attach};
use super::container::create::create;
use super::container::spec::Options;
use super::context::Context;
use super::error::{CliResult, report_errors};
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
    if args.detach {
        let started = pod.start(std::slice::from_ref(&name), true).await;
        let started = started.map_err(Into::into).and_then(report_errors);
        if started.is_err() && args.options.rm {
            remove(&pod, &name).await?;
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
    let code = attach(&pod, &name, true, client).await;
    if args.options.rm {
        remove(&pod, &name).await?;
    }
    code
}

/// Removes a container that never started, and the pod that was made for it. The owner removes
/// a container that has ended; a detached one runs and stays.
async fn remove(pod: &PodHandle, name: &str) -> CliResult<()> {
    let names = [name.to_owned()];
    if let Err(error) = pod.remove_containers(&names, false, None).await {
        log::debug!("Container {name}: {error}");
    }
    Ok(pod.remove_if_spent().await?)
}
