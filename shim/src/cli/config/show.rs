//! `rust-kata config show`.

use std::path::Path;

use clap::Args;
use runtime::{Config, Loaded};
use serde::Serialize;

use crate::cli::arguments::OutputFormat;
use crate::cli::error::CliResult;
use crate::cli::output::{json, table};

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    output: OutputFormat,
}

/// A value and its origin.
#[derive(Debug, Serialize)]
struct Row {
    key: String,
    value: toml::Value,
    /// A file, or `default`.
    origin: String,
}

impl Show {
    pub(crate) fn run(&self, explicit: Option<&Path>) -> CliResult<()> {
        let loaded = Config::load_with_origin(explicit)?;
        let effective = toml::Table::try_from(&loaded.config)
            .map_err(runtime::Error::encode("the configuration"))?;
        let mut rows = Vec::new();
        collect(&effective, &loaded, "", &mut rows);
        if self.output.is_json() {
            return json(&rows);
        }
        let cells = rows
            .into_iter()
            .map(|row| vec![row.key, row.value.to_string(), row.origin]);
        table(&["KEY", "VALUE", "FROM"], &cells.collect::<Vec<_>>())
    }
}

/// Each value, those of tables by `table.key`.
fn collect(values: &toml::Table, loaded: &Loaded, prefix: &str, rows: &mut Vec<Row>) {
    for (key, value) in values {
        let key = format!("{prefix}{key}");
        if let toml::Value::Table(inner) = value {
            collect(inner, loaded, &format!("{key}."), rows);
            continue;
        }
        let origin = loaded.origin(&key);
        rows.push(Row {
            origin: origin.map_or("default".into(), |path| path.display().to_string()),
            value: value.clone(),
            key,
        });
    }
}
