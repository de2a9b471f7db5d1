//! `rust-kata container pause`.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::status::ContainerStatus;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container pause`.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    which: ContainersOrAll,
}

impl Pause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let pause = async |pod: &PodHandle, names: &[String]| pod.pause(names).await;
        let which = self.which.groups(context, Manner::SideBySide, |status| {
            status == ContainerStatus::Running
        })?;
        which.each("Pausing", pause).await
    }
}
