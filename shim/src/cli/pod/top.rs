//! `rust-kata pod top`.

use clap::Args;

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{json, table};
use crate::cli::processes::{HEADS, ProcessRow};
use crate::cli::select::OnePod;

/// Arguments of `pod top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    which: OnePod,

    #[command(flatten)]
    output: OutputFormat,
}

impl Top {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        let pod = context.pod(&self.which.pod)?;
        let running = pod.view()?.in_state(|status| status.is_running());
        let mut rows = Vec::new();
        for name in running {
            match pod.processes(&name).await {
                Ok(processes) => {
                    rows.extend(processes.into_iter().map(|p| ProcessRow::new(&name, p)));
                }
                // The container has ended meanwhile.
                Err(runtime::Error::WrongState { .. }) => {}
                Err(e) if e.kind() == runtime::ErrorKind::FailedPrecondition => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.output.is_json() {
            return json(&rows);
        }
        let heads: Vec<&str> = ["CONTAINER"].into_iter().chain(HEADS).collect();
        let cells = rows.iter().map(|row| {
            let mut cells = vec![row.container.clone()];
            cells.extend(row.cells());
            cells
        });
        table(&heads, &cells.collect::<Vec<_>>())
    }
}
