//! `rust-kata container exec`.

use clap::Args;
use runtime::engine::records::exec::ExecRequest;

use crate::cli::arguments::{DetachKeys, Environment};
use crate::cli::attach::{Client, exec};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::preserve::{Preserve, Preserved};
use crate::cli::select::{Container, OneContainer};
use crate::cli::values::environment;

/// Arguments of `container exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    which: OneContainer,

    /// Allocate a terminal
    #[arg(long, short)]
    tty: bool,

    /// Pass stdin to the process
    #[arg(long, short)]
    interactive: bool,

    /// Print the id of the process, and do not wait for it
    #[arg(long, short, conflicts_with_all = ["preserve_fds", "preserve_fd"])]
    detach: bool,

    #[command(flatten)]
    environment: Environment,

    /// Working directory [default: that of the container]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,

    /// User name or id, optionally with :GROUP [default: that of the container]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Give the process all capabilities
    #[arg(long)]
    privileged: bool,

    #[command(flatten)]
    pub(crate) preserve: Preserve,

    #[command(flatten)]
    keys: DetachKeys,

    /// Command to run
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        let preserved = self.preserve.into_preserved();
        let found = context.any_container(&self.which.container)?;
        let request = ExecRequest {
            command: self.command,
            terminal: self.tty,
            env: environment(&self.environment.env)?,
            user: self.user,
            cwd: self.workdir,
            privileged: self.privileged,
            preserve_fds: preserved.iter().map(Preserved::request).collect(),
        };
        if self.detach {
            let id = match &found {
                Container::Managed(pod, name) => pod.exec_detached(name, &request).await?,
                Container::Foreign(foreign) => foreign.exec_detached(&request).await?,
            };
            print(&format!("{id}\n"))?;
            return Ok(0);
        }
        let client = Client {
            stdin: self.interactive,
            tty: self.tty,
            detach_keys: self.keys.detach_keys,
            preserved,
            ..Client::default()
        };
        exec(&found, &request, client).await
    }
}
