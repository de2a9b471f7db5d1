//! `rust-kata config`.

use std::path::Path;

use clap::Subcommand;
use runtime::{Config, DEFAULT_CONFIG, Loaded};
use serde::Serialize;

use super::error::CliResult;
use super::output::{Format, json, print, table};

/// `rust-kata config`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows each value that is in effect, and where it is from
    Show {
        /// How to show it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Prints a file with every key, its default and what it is for
    Default,
}

impl Command {
    pub(super) fn run(&self, explicit: Option<&Path>) -> CliResult<()> {
        match self {
            Self::Default => print(DEFAULT_CONFIG),
            Self::Show { format } => show(explicit, *format),
        }
    }
}

/// A value, and where it is from.
#[derive(Debug, Serialize)]
struct Row {
    key: String,
    value: toml::Value,
    /// A file, or `default`.
    origin: String,
}

fn show(explicit: Option<&Path>, format: Format) -> CliResult<()> {
    let loaded = Config::load_with_origin(explicit)?;
    let effective = toml::Table::try_from(&loaded.config)
        .map_err(|e| runtime::Error::Internal(format!("Cannot encode the configuration: {e}")))?;
    let mut rows = Vec::new();
    collect(&effective, &loaded, "", &mut rows);
    if format == Format::Json {
        return json(&rows);
    }
    let cells = rows
        .into_iter()
        .map(|row| vec![row.key, row.value.to_string(), row.origin]);
    table(&["KEY", "VALUE", "FROM"], &cells.collect::<Vec<_>>())
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
