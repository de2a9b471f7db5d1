//! `rust-kata image prune`.

use clap::Args;

use super::print_removed;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::size;

/// Arguments of `image prune`.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove all images not used by a container, not only those without a name
    #[arg(long, short)]
    all: bool,
}

impl Prune {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let removed = context.engine.prune_images(self.all)?;
        print_removed(&removed)?;
        crate::terminal::say(&format!("{} were freed", size(removed.bytes)));
        Ok(())
    }
}
