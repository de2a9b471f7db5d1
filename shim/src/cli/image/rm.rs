//! `rust-kata image rm`.

use clap::Args;

use super::{Images, print_removed};
use crate::cli::context::Context;
use crate::cli::error::CliResult;

/// Arguments of `image rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Images,

    /// Also remove the containers and all names of the images
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        for image in &self.which.images {
            print_removed(&context.engine.remove_image(image, self.force).await?)?;
        }
        Ok(())
    }
}
