//! `rust-kata image history`.

use clap::Args;

use super::age;
use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{json, size, table};

/// Arguments of `image history`.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Image by name, id or the beginning of an id
    image: String,

    #[command(flatten)]
    output: OutputFormat,
}

impl History {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let image = context.engine.images()?.find(&self.image)?;
        let steps = image.image.config.history().clone().unwrap_or_default();
        if self.output.is_json() {
            return json(&steps);
        }
        let mut sizes = image.image.layers.iter().map(|layer| layer.size);
        let mut rows = Vec::new();
        for step in &steps {
            let bytes = match step.empty_layer().unwrap_or(false) {
                true => 0,
                false => sizes.next().unwrap_or(0),
            };
            rows.push(vec![
                step.created().as_deref().map_or_else(String::new, age),
                step.created_by().clone().unwrap_or_default(),
                size(bytes),
                step.comment().clone().unwrap_or_default(),
            ]);
        }
        // As podman: the last step first.
        rows.reverse();
        table(&["CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)
    }
}
