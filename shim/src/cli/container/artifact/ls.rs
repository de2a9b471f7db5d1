//! `rust-kata container artifact ls`.

use clap::Args;
use serde_json::json;

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{json as print_json, table};
use crate::cli::select::OneContainer;

/// Arguments of `container artifact ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    which: OneContainer,

    #[command(flatten)]
    output: OutputFormat,
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container)?;
        let artifacts = pod.artifact_names(&name)?;
        if self.output.is_json() {
            let list = artifacts.iter();
            let list = list.map(|(name, size)| json!({"name": name, "size": size}));
            return print_json(&list.collect::<Vec<_>>());
        }
        let rows = artifacts.into_iter();
        let rows = rows.map(|(name, size)| vec![name, size.to_string()]);
        table(&["ARTIFACT", "SIZE"], &rows.collect::<Vec<_>>())
    }
}
