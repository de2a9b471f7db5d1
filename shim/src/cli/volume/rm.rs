//! `rust-kata volume rm`.

use clap::Args;

use super::Volumes;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;

/// Arguments of `volume rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Volumes,

    /// Also remove the containers that use the volumes
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        for name in &self.which.volumes {
            context.engine.remove_volume(name, self.force).await?;
            print(&format!("{name}\n"))?;
        }
        Ok(())
    }
}
