//! `rust-kata pod unpause`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod unpause`.
#[derive(Debug, Args)]
pub(crate) struct Unpause {
    #[command(flatten)]
    which: Pods,
}

impl Unpause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Unpausing", Manner::SideBySide, async |pod| {
                pod.unpause(&[]).await
            })
            .await
    }
}
