//! `rust-kata volume`: one file for each verb.

mod create;
mod inspect;
mod ls;
mod prune;
mod rm;

use clap::{Args, Subcommand};
use runtime::engine::volume::VolumeView;

use super::context::Context;
use super::error::CliResult;

/// `rust-kata volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a volume
    Create(create::Create),
    /// List volumes
    #[command(alias = "list")]
    Ls(ls::Ls),
    /// Show volumes as JSON
    Inspect(inspect::Inspect),
    /// Remove volumes not used by a container
    Rm(rm::Rm),
    /// Remove all volumes not used by a container
    Prune,
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        match self {
            Self::Create(create) => create.run(context),
            Self::Ls(ls) => ls.run(context),
            Self::Inspect(inspect) => inspect.run(context),
            Self::Rm(rm) => rm.run(context).await,
            Self::Prune => prune::prune(context),
        }
    }
}

/// One or more volumes.
#[derive(Debug, Args)]
struct Volumes {
    /// Volumes by name
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// All readable volumes; the others are reported.
fn readable(context: &Context) -> CliResult<Vec<VolumeView>> {
    let mut found = Vec::new();
    for volume in context.engine.list_volumes()? {
        match volume {
            Ok(volume) => found.push(volume),
            Err(e) => crate::terminal::say(&e.to_string()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
