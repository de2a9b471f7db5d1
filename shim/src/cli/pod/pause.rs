//! `rust-kata pod pause`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod pause`.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    which: Pods,
}

impl Pause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Pausing", Manner::SideBySide, async |pod| {
                pod.pause(&[]).await
            })
            .await
    }
}
