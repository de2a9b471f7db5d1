//! `rust-kata pod start`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::select::Pods;

/// Arguments of `pod start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    which: Pods,
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Starting", async |pod| {
                report_errors(pod.start(&[], true).await?)
            })
            .await
    }
}
