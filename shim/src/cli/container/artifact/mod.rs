//! `rust-kata container artifact`: files kept with a container, which the container
//! cannot see.

mod add;
mod get;
mod ls;
mod rm;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::OneContainer;

/// `rust-kata container artifact`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a file to a container
    Add(add::Add),
    /// Write an artifact to stdout
    Get(get::Get),
    /// List the artifacts of a container
    Ls(ls::Ls),
    /// Remove an artifact
    Rm(rm::Rm),
}

/// One artifact.
#[derive(Debug, Args)]
struct OneArtifact {
    #[command(flatten)]
    container: OneContainer,

    /// Name of the artifact
    artifact: String,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        match self {
            Self::Add(add) => add.run(context),
            Self::Get(get) => get.run(context),
            Self::Ls(ls) => ls.run(context),
            Self::Rm(rm) => rm.run(context),
        }
    }
}
