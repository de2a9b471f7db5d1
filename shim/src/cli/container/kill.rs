//! `rust-kata container kill`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::arguments::Signal;
use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::output::print;
use crate::cli::select::Containers;

/// Arguments of `container kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    #[command(flatten)]
    which: Containers,

    #[command(flatten)]
    signal: Signal,

    /// Signal every process of the container, not only its init
    #[arg(long, short)]
    all: bool,
}

impl Kill {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let signal = self.signal.signal as u32;
        let (managed, foreign) = self.which.by_manager(context)?;
        let kill =
            async |pod: &PodHandle, names: &[String]| pod.kill(names, signal, self.all).await;
        managed.each(context, "Killing", kill).await?;
        for container in foreign {
            report_errors(container.kill(signal, self.all).await?)?;
            print(&format!("{}\n", container.container))?;
        }
        Ok(())
    }
}
