//! `rust-kata pod sync`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::select::Pods;

/// Arguments of `pod sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    #[command(flatten)]
    which: Pods,
}

impl Sync {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Querying", async |pod| {
                report_errors(pod.sync(&[]).await?)
            })
            .await
    }
}
