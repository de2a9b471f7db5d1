//! `rust-kata pod events`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::events;

/// Arguments of `pod events`.
#[derive(Debug, Args)]
pub(crate) struct PodEvents {
    /// Pods by name [default: all]
    #[arg(value_name = "POD")]
    pods: Vec<String>,

    #[command(flatten)]
    events: events::Events,
}

impl PodEvents {
    pub(crate) fn run(mut self, context: &Context) -> CliResult<()> {
        self.events.of_pods(&self.pods);
        self.events.run(context)
    }
}
