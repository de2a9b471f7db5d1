//! `rust-kata pod stop`.

use clap::Args;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::select::Pods;

/// Arguments of `pod stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    which: Pods,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Stop {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Stopping", async |pod| {
                report_errors(pod.stop(&[], self.timeout.time).await?)
            })
            .await
    }
}
