//! `rust-kata container stop`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    which: ContainersOrAll,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Stop {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let time = self.timeout.time;
        let stop = async |pod: &PodHandle, names: &[String]| pod.stop(names, time).await;
        let which = self.which.groups(context, Manner::SideBySide, |_| true)?;
        which.each("Stopping", stop).await
    }
}
