//! `rust-kata pod stop`.

use clap::Args;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

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
            .each(context, "Stopping", Manner::SideBySide, async |pod| {
                pod.stop(&[], self.timeout.time).await
            })
            .await
    }
}
