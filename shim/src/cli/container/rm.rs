//! `rust-kata container rm`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::arguments::StopTimeout;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::{ContainersOrAll, Manner};

/// Arguments of `container rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: ContainersOrAll,

    /// Stop running containers; containers that do not exist are no error
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    timeout: StopTimeout,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let (force, time) = (self.force, self.timeout.time);
        let remove = async |pod: &PodHandle, names: &[String]| {
            let outcome = pod.remove_containers(names, force, time).await?;
            // A pod that was made for a container is removed with its last one.
            pod.remove_if_spent().await?;
            Ok(outcome)
        };
        let manner = Manner::Removal { force };
        let which = self.which.groups(context, manner, |_| true)?;
        which.each("Removing", remove).await
    }
}
