//! `rust-kata image`: one file for each verb.

mod history;
mod inspect;
mod load;
mod ls;
mod prune;
mod pull;
mod rm;
mod tag;

use std::time::SystemTime;

use clap::{Args, Subcommand};
use runtime::engine::image::Removed;

use super::context::Context;
use super::error::CliResult;
use super::output::{ago, print};

/// `rust-kata image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull images from a registry, or from oci:DIR or oci-archive:FILE
    Pull(pull::Pull),
    /// Load an image from an OCI archive or layout on disk
    Load(load::Load),
    /// List images
    #[command(alias = "list")]
    Ls(ls::Ls),
    /// Show images as JSON
    Inspect(inspect::Inspect),
    /// Show the history of an image
    History(history::History),
    /// Add a name to an image
    Tag(tag::Tag),
    /// Remove images, or one of several names of an image
    Rm(rm::Rm),
    /// Remove images without a name
    Prune(prune::Prune),
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        match self {
            Self::Pull(pull) => pull.run(context).await,
            Self::Load(load) => load.run(context).await,
            Self::Ls(ls) => ls.run(context),
            Self::Inspect(inspect) => inspect.run(context),
            Self::History(history) => history.run(context),
            Self::Tag(tag) => tag.run(context),
            Self::Rm(rm) => rm.run(context).await,
            Self::Prune(prune) => prune.run(context),
        }
    }
}

/// One or more images.
#[derive(Debug, Args)]
struct Images {
    /// Images by name, id or the beginning of an id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

fn print_removed(removed: &Removed) -> CliResult<()> {
    for name in &removed.untagged {
        print(&format!("Untagged: {name}\n"))?;
    }
    for id in &removed.deleted {
        print(&format!("Deleted: {id}\n"))?;
    }
    Ok(())
}

/// How long ago a time in an image was; the text itself if it is not a time.
fn age(created: &str) -> String {
    match humantime::parse_rfc3339_weak(created) {
        Ok(at) => ago(at.min(SystemTime::now())),
        Err(_) => created.to_owned(),
    }
}

#[cfg(test)]
mod tests;
