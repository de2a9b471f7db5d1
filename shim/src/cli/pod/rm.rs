//! `rust-kata pod rm`.

use clap::Args;
use runtime::engine::RemoveOptions;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::select::Pods;

/// Arguments of `pod rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Pods,

    /// Stop its containers first, and remove a pod whose files are damaged
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        self.which
            .each(context, "Removing", async |pod| {
                let how = RemoveOptions {
                    containers: true,
                    force: self.force,
                    seconds: self.timeout.time,
                };
                report_errors(pod.remove(how).await?)
            })
            .await
    }
}
