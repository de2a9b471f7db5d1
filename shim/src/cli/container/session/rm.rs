//! `rust-kata container session rm`.

use clap::Args;
use runtime::Error;

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
        let sessions = &view.container(&name)?.state.execs;
        let session = match find(sessions, &self.which.session) {
            Ok((id, _)) => id,
            // The owner may know it, and says it if it does not.
            Err(Error::NotFound { .. }) => &self.which.session,
            Err(error) => return Err(error.into()),
        };
        pod.remove_exec(&name, session, self.force).await?;
        print(&format!("{session}\n"))
    }
}
