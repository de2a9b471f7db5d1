//! `rust-kata image rm`.

use clap::Args;

use super::{Images, print_removed};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::select::is_not_found;

/// Arguments of `image rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Images,

    /// Also remove the containers and all names of the images; images that do not exist are no
    /// error
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        for image in &self.which.images {
            let removed = context.engine.remove_image(image, self.force).await;
            let removed = removed.map_err(Into::into);
            if self.force && removed.as_ref().is_err_and(is_not_found) {
                continue;
            }
            match removed {
                Ok(removed) => print_removed(&removed)?,
                Err(error) => failures.report_removal(&error),
            }
        }
        failures.finish()
    }
}
