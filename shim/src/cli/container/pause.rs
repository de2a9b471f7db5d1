//! `rust-kata container pause`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::ContainersOrAll;

/// Arguments of `container pause`.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    which: ContainersOrAll,
}

impl Pause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let pause = async |pod: &PodHandle, names: &[String]| pod.pause(names).await;
        let which = self.which.named(context)?;
        which.each(context, "Pausing", pause).await
    }
}
