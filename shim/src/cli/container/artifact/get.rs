//! `rust-kata container artifact get`.

use std::io::stdout;

use clap::Args;

use super::OneArtifact;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::error::Context as _;

/// Arguments of `container artifact get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    which: OneArtifact,
}

impl Get {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container.container)?;
        let mut content = pod.artifact(&name, &self.which.artifact)?;
        std::io::copy(&mut content, &mut stdout().lock()).doing("write the artifact")?;
        Ok(())
    }
}
