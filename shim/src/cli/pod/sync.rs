//! `rust-kata pod sync`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    #[command(flatten)]
    which: Pods,
}

impl Sync {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Querying", Manner::SideBySide, async |pod| {
                pod.sync(&[]).await
            })
            .await
    }
}
