//! `rust-kata run`: create, start, and be attached from the first word on.

use clap::Args as ClapArgs;

use super::Context;
use super::attach::{Attach, attach};
use super::create::create;
use super::error::{CliResult, settle};
use super::output::print;
use super::preserve::Preserve;
use super::spec::Options;

/// `rust-kata run`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The pod that it is to be in [default: a new one, of the container's name]
    #[arg(long, value_name = "POD")]
    pod: Option<String>,

    /// Tell the container's name, and leave it running
    #[arg(long, short, conflicts_with_all = ["preserve_fds", "preserve_fd"])]
    detach: bool,

    #[command(flatten)]
    pub(super) preserve: Preserve,

    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(context: &Context, args: Args) -> CliResult<u8> {
    let (pod, name) = create(context, args.pod.as_deref(), &args.options).await?;
    if args.detach {
        let started = pod.start(std::slice::from_ref(&name), true).await;
        settle(started?)?;
        print(&format!("{name}\n"))?;
        return Ok(0);
    }
    let how = Attach {
        container: name.clone(),
        stdin: args.options.interactive,
        tty: args.options.tty,
        start: true,
        preserved: args.preserve.taken(),
        ..Attach::default()
    };
    let code = attach(&pod, how).await;
    if args.options.rm {
        // One that ended has gone or is about to, one that never began has not, and one
        // that was detached from stays.
        let names = std::slice::from_ref(&name);
        if let Err(error) = pod.remove_containers(names, false, None).await {
            log::debug!("Container {name}: {error}");
        }
        pod.remove_if_spent().await?;
    }
    code
}
