//! `rust-kata container artifact rm`.

use clap::Args;

use super::OneArtifact;
use crate::cli::context::Context;
use crate::cli::error::CliResult;

/// Arguments of `container artifact rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: OneArtifact,
}

impl Rm {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container.container)?;
        Ok(pod.remove_artifact(&name, &self.which.artifact)?)
    }
}
