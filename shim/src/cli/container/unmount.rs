//! `rust-kata container unmount`.

use clap::Args;

use super::mount::mounted;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;

/// Arguments of `container unmount`.
#[derive(Debug, Args)]
pub(crate) struct Unmount {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,

    /// Select all mounted containers
    #[arg(long, short, conflicts_with = "containers")]
    all: bool,

    /// Unmount also if mounted several times or in use by a process of the host
    #[arg(long, short)]
    force: bool,
}

impl Unmount {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let wanted = match self.all {
            true => mounted(context)?
                .into_iter()
                .map(|(pod, container, ..)| format!("{pod}/{container}"))
                .collect(),
            false => self.containers,
        };
        for wanted in wanted {
            let (pod, name) = context.container(&wanted)?;
            pod.unmount(&name, self.force).await?;
            print(&format!("{name}\n"))?;
        }
        Ok(())
    }
}
