//! `rust-kata container attach`.

use clap::Args;

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
        let tty = pod.view()?.container(&name)?.definition.terminal();
        let client = Client {
            stdin: !self.no_stdin,
            stdout: !self.no_stdout,
            stderr: !self.no_stderr,
            tty,
            detach_keys: self.keys.detach_keys,
            ..Client::default()
        };
        attach(&pod, &name, false, client).await
    }
}
