//! `rust-kata pod rm`.

use clap::Args;
use runtime::engine::RemoveOptions;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Manner, Pods};

/// Arguments of `pod rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Pods,

    /// Stop its containers first, and remove a pod whose files are damaged; pods that do not
    /// exist are no error
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let manner = Manner::Removal { force: self.force };
        let how = RemoveOptions {
            containers: true,
            force: self.force,
            seconds: self.timeout.time,
        };
        self.which
            .each(context, "Removing", manner, async |pod| {
                pod.remove(how).await
            })
            .await
    }
}
