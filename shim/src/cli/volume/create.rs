//! `rust-kata volume create`.

use clap::Args;
use runtime::engine::volume::Volume;
use runtime::new_id;

use crate::cli::arguments::Labels;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::values::pairs;

/// Arguments of `volume create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the volume [default: generated]
    name: Option<String>,

    #[command(flatten)]
    labels: Labels,
}

impl Create {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let mut volume = Volume::new(&self.name.unwrap_or_else(new_id));
        volume.labels = pairs(&self.labels.label, "label")?;
        context.engine.volumes().create(&volume)?;
        print(&format!("{}\n", volume.name))
    }
}
