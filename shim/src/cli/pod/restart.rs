//! `rust-kata pod restart`.

use clap::Args;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::select::Pods;

/// Arguments of `pod restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    which: Pods,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Restart {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Restarting", async |pod| {
                report_errors(pod.restart(&[], self.timeout.time).await?)
            })
            .await
    }
}
