//! `rust-kata container unpause`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::ContainersOrAll;

/// Arguments of `container unpause`.
#[derive(Debug, Args)]
pub(crate) struct Unpause {
    #[command(flatten)]
    which: ContainersOrAll,
}

impl Unpause {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let unpause = async |pod: &PodHandle, names: &[String]| pod.unpause(names).await;
        let which = self.which.named(context)?;
        which.each(context, "Unpausing", unpause).await
    }
}
