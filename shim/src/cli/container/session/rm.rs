//! `rust-kata container session rm`.

use clap::Args;

use super::{OneSession, find};
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
        let view = pod.view()?;
        let (session, _) = find(&view.container(&name)?.state.execs, &self.which.session)?;
        pod.remove_exec(&name, session, self.force).await?;
        print(&format!("{session}\n"))
    }
}
