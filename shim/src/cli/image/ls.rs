//! `rust-kata image ls`.

use clap::Args;
use runtime::engine::image::ImageView;
use serde::Serialize;

use super::age;
use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{json, print, size, table};

/// Arguments of `image ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: OutputFormat,

    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
}

/// An image in a list: once for each of its names.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: Option<String>,
    digest: String,
    created: Option<String>,
    size: u64,
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let (images, bad) = context.engine.images()?.list()?;
        for bad in bad {
            crate::terminal::say(&format!("image {}: {}", bad.id, bad.error));
        }
        if self.quiet {
            let ids: String = images.iter().map(|i| format!("{}\n", i.image.id)).collect();
            return print(&ids);
        }
        let rows = images.iter().flat_map(rows);
        let rows: Vec<Row> = rows.collect();
        if self.output.is_json() {
            return json(&rows);
        }
        let cells = rows.iter().map(|row| {
            vec![
                row.name.clone().unwrap_or_else(|| "<none>".into()),
                short(&row.id),
                row.created.as_deref().map_or_else(String::new, age),
                size(row.size),
            ]
        });
        let heads = ["IMAGE", "IMAGE ID", "CREATED", "SIZE"];
        table(&heads, &cells.collect::<Vec<_>>())
    }
}

fn rows(view: &ImageView) -> Vec<Row> {
    let row = |name: Option<&String>| Row {
        id: view.image.id.clone(),
        name: name.cloned(),
        digest: view.image.digest.clone(),
        created: view.image.config.created().clone(),
        size: view.image.size(),
    };
    match view.names.is_empty() {
        true => vec![row(None)],
        false => view.names.iter().map(|name| row(Some(name))).collect(),
    }
}

fn short(id: &str) -> String {
    let plain = id.rsplit(':').next().unwrap_or(id);
    plain.chars().take(12).collect()
}
