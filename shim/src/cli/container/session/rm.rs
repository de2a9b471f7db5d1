//! `rust-kata container session rm`.

use clap::Args;
use protos::management as api;
use runtime::Error;

use super::OneSession;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;

/// Arguments of `container session rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: OneSession,

    /// Kill the process if it is running
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container.container)?;
        let session = self.which.session;
        let missing = || Error::not_found("exec", &session);
        // Only a container in a running VM has sessions.
        let owner = pod.owner().await?.ok_or_else(missing)?;
        let request = api::RemoveExecRequest {
            container: name,
            exec: session.clone(),
            force: self.force,
            ..Default::default()
        };
        owner.remove_exec(request).await?;
        print(&format!("{session}\n"))
    }
}
