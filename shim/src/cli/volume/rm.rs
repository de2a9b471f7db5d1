//! `rust-kata volume rm`.

use clap::Args;

use super::Volumes;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::select::is_not_found;

/// Arguments of `volume rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Volumes,

    /// Also remove the containers that use the volumes; volumes that do not exist are no error
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        for name in &self.which.volumes {
            let removed = context.engine.remove_volume(name, self.force).await;
            let removed = removed.map_err(Into::into);
            if self.force && removed.as_ref().is_err_and(is_not_found) {
                continue;
            }
            match removed {
                Ok(()) => print(&format!("{name}\n"))?,
                Err(error) => failures.report_removal(&error),
            }
        }
        failures.finish()
    }
}
