//! `rust-kata volume ls`.

use clap::Args;

use super::readable;
use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{ago, json, print, table, value};

/// Arguments of `volume ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: OutputFormat,

    /// Print names only
    #[arg(long, short)]
    quiet: bool,
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let volumes = readable(context)?;
        if self.quiet {
            let names = volumes.iter().map(|view| format!("{}\n", view.volume.name));
            return print(&names.collect::<String>());
        }
        if self.output.is_json() {
            let shown = volumes.iter().map(value);
            return json(&shown.collect::<CliResult<Vec<_>>>()?);
        }
        let cells = volumes.iter().map(|view| {
            let name = match view.anonymous {
                true => view.volume.name.chars().take(12).collect(),
                false => view.volume.name.clone(),
            };
            vec![
                name,
                ago(view.volume.created),
                view.anonymous.to_string(),
                view.users.join(", "),
            ]
        });
        let heads = ["VOLUME", "CREATED", "ANONYMOUS", "USED BY"];
        table(&heads, &cells.collect::<Vec<_>>())
    }
}
