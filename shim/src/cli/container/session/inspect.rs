//! `rust-kata container session inspect`.

use clap::Args;

use super::{OneSession, Shown, find};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{json, value};

/// Arguments of `container session inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: OneSession,
}

impl Inspect {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container.container)?;
        let view = pod.view()?;
        let sessions = &view.container(&name)?.state.execs;
        let (id, session) = find(sessions, &self.which.session)?;
        let shown = Shown {
            id,
            container: &name,
            session,
        };
        json(&[value(&shown)?])
    }
}
