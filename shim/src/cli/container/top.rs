//! `rust-kata container top`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::table;
use crate::cli::processes::{HEADS, ProcessRow};
use crate::cli::select::{Container, OneContainer};

/// Arguments of `container top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    which: OneContainer,
}

impl Top {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        let (name, processes) = match context.any_container(&self.which.container)? {
            Container::Managed(pod, name) => {
                let processes = pod.processes(&name).await?;
                (name, processes)
            }
            Container::Foreign(foreign) => {
                let processes = foreign.processes().await?;
                (foreign.container, processes)
            }
        };
        let rows = processes.into_iter();
        let cells = rows.map(|process| ProcessRow::new(&name, process).cells());
        table(&HEADS, &cells.collect::<Vec<_>>())
    }
}
