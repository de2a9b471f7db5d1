//! `rust-kata container unpause`.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::status::ContainerStatus;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container unpause`.
#[derive(Debug, Args)]
pub(crate) struct Unpause {
    #[command(flatten)]
    which: ContainersOrAll,
}

impl Unpause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let unpause = async |pod: &PodHandle, names: &[String]| pod.unpause(names).await;
        let which = self.which.groups(context, Manner::SideBySide, |status| {
            status == ContainerStatus::Paused
        })?;
        which.each("Unpausing", unpause).await
    }
}
