//! `rust-kata container attach`.

use clap::Args;
use runtime::engine::status::ContainerStatus;

use crate::cli::arguments::DetachKeys;
use crate::cli::attach::{Client, attach};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::OneContainer;

/// Arguments of `container attach`.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    which: OneContainer,

    /// Do not pass stdin to the container
    #[arg(long)]
    no_stdin: bool,

    /// Do not show stdout of the container
    #[arg(long)]
    no_stdout: bool,

    /// Do not show stderr of the container
    #[arg(long)]
    no_stderr: bool,

    #[command(flatten)]
    keys: DetachKeys,
}

impl Attach {
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        let (pod, name) = context.container(&self.which.container)?;
        let view = pod.view()?;
        let files = view.container(&name)?;
        // As podman: a frozen or waiting process has no output, and takes no signal.
        let status = files.state.status;
        if !matches!(status, ContainerStatus::Running | ContainerStatus::Stopping) {
            return Err(runtime::Error::WrongState {
                what: "container",
                id: name,
                operation: "attach to",
                state: status.to_string(),
            }
            .into());
        }
        let tty = files.definition.terminal();
        let client = Client {
            stdin: !self.no_stdin,
            stdout: !self.no_stdout,
            stderr: !self.no_stderr,
            tty,
            detach_keys: self.keys.detach_keys,
            ..Client::default()
        };
        Ok(attach(&pod, &name, false, client).await?.code())
    }
}
