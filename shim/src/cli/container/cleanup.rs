//! `rust-kata container cleanup`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container cleanup`.
#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    #[command(flatten)]
    which: ContainersOrAll,
}

impl Cleanup {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let cleanup = async |pod: &PodHandle, names: &[String]| pod.cleanup(names).await;
        let which = self
            .which
            .groups(context, Manner::SideBySide, |status| !status.is_live())?;
        which.each("Cleaning up", cleanup).await
    }
}
