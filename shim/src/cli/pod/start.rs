//! `rust-kata pod start`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    which: Pods,
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Starting", Manner::InTurn, async |pod| {
                pod.start(&[], true).await
            })
            .await
    }
}
