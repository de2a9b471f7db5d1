//! `rust-kata container exec`.

use clap::Args;
use protos::management as api;

use crate::cli::arguments::{DetachKeys, Environment};
use crate::cli::attach::{Attachment, attach, attach_foreign};
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
        let (owner, name) = match &found {
            Container::Foreign(foreign) => (foreign.owner().await?, foreign.container.clone()),
            Container::Managed(pod, name) => {
                let not_running = || runtime::Error::WrongState {
                    what: "container",
                    id: name.clone(),
                    operation: "run a process in",
                    state: "not running".into(),
                };
                let owner = pod.owner().await?.ok_or_else(not_running)?;
                (owner, name.clone())
            }
        };
        let request = api::CreateExecRequest {
            container: name.clone(),
            command: self.command,
            env: environment(&self.environment.env)?,
            cwd: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            terminal: self.tty,
            privileged: self.privileged,
            preserve_fds: preserved.iter().map(Preserved::request).collect(),
            ..Default::default()
        };
        let created = owner.create_exec(request).await?;
        if self.detach {
            let exec = created.exec.clone();
            owner.start_exec(created).await?;
            print(&format!("{exec}\n"))?;
            return Ok(0);
        }
        let attachment = Attachment {
            container: name,
            exec: created.exec,
            stdin: self.interactive,
            tty: self.tty,
            start: true,
            detach_keys: self.keys.detach_keys,
            preserved,
            ..Attachment::default()
        };
        match &found {
            Container::Managed(pod, _) => attach(pod, attachment).await,
            Container::Foreign(foreign) => attach_foreign(foreign, attachment).await,
        }
    }
}
