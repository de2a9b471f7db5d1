//! `rust-kata pod kill`.

use clap::Args;

use crate::cli::arguments::Signal;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    #[command(flatten)]
    which: Pods,

    #[command(flatten)]
    signal: Signal,
}

impl Kill {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Killing", Manner::SideBySide, async |pod| {
                pod.kill(&[], self.signal.signal as u32, false).await
            })
            .await
    }
}
