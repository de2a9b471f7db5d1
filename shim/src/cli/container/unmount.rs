//! `rust-kata container unmount`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::select::{Groups, Manner};

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
        let manner = Manner::InTurn;
        let which = match self.all {
            true => Groups::all(context, manner, |files| files.state.mounts > 0)?,
            false => Groups::named(context, manner, &self.containers),
        };
        which
            .one_by_one(async |pod, name| {
                pod.unmount(name, self.force).await?;
                print(&format!("{name}\n"))
            })
            .await
    }
}
