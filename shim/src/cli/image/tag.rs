//! `rust-kata image tag`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;

/// Arguments of `image tag`.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// Image by name, id or the beginning of an id
    image: String,

    /// Additional name
    name: String,
}

impl Tag {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        Ok(context.engine.images()?.tag(&self.image, &self.name)?)
    }
}
