//! `rust-kata pod rm`.

use clap::Args;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::Pods;

/// Arguments of `pod rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Pods,

    /// Stop and remove its containers, also of a pod whose files are damaged
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Removing", async |pod| {
                pod.remove(self.force, self.timeout.time).await?;
                Ok(Vec::new())
            })
            .await
    }
}
