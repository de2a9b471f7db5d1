//! `rust-kata container init`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{Containers, Manner};

/// Arguments of `container init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    which: Containers,
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let init = async |pod: &PodHandle, names: &[String]| pod.init(names).await;
        let which = self.which.groups(context, Manner::InTurn);
        which.each("Setting up", init).await
    }
}
