//! `rust-kata container artifact add`.

use std::fs::File;
use std::io::stdin;
use std::path::{Path, PathBuf};

use clap::Args;

use super::OneArtifact;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::error::Context as _;

/// Arguments of `container artifact add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    which: OneArtifact,

    /// File to read the content from; - for stdin
    file: PathBuf,
}

impl Add {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container.container)?;
        let artifact = &self.which.artifact;
        if self.file == Path::new("-") {
            return Ok(pod.add_artifact(&name, artifact, &mut stdin())?);
        }
        let mut content = File::open(&self.file).on("open", &self.file)?;
        Ok(pod.add_artifact(&name, artifact, &mut content)?)
    }
}
