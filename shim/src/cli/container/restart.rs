//! `rust-kata container restart`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    which: ContainersOrAll,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Restart {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let time = self.timeout.time;
        let restart = async |pod: &PodHandle, names: &[String]| pod.restart(names, time).await;
        let which = self.which.groups(context, Manner::SideBySide, |_| true)?;
        which.each("Restarting", restart).await
    }
}
