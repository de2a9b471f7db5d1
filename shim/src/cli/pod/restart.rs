//! `rust-kata pod restart`.

use clap::Args;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

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
            .each(context, "Restarting", Manner::SideBySide, async |pod| {
                pod.restart(&[], self.timeout.time).await
            })
            .await
    }
}
