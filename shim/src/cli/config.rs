//! `rust-kata config`.

use std::path::Path;

use clap::Subcommand;
use runtime::{Config, DEFAULT_CONFIG};

use super::error::CliResult;
use super::output::{print, table};
use crate::error::Context as _;

/// `rust-kata config`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows each value that is in effect, and where it is from
    Show,
    /// Prints a file with every key, its default and what it is for
    Default,
}

impl Command {
    pub(super) fn run(&self, explicit: Option<&Path>) -> CliResult<()> {
        match self {
            Self::Default => print(DEFAULT_CONFIG),
            Self::Show => show(explicit),
        }
    }
}

fn show(explicit: Option<&Path>) -> CliResult<()> {
    let (config, file) = Config::load_with_origin(explicit)?;
    let set = match &file {
        None => toml::Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).on("read", path)?;
            // It was read as a configuration a moment ago.
            text.parse().unwrap_or_default()
        }
    };
    let effective = toml::Table::try_from(&config)
        .map_err(|e| runtime::Error::Internal(format!("Cannot encode the configuration: {e}")))?;
    let mut rows = Vec::new();
    collect(&effective, &set, "", &mut |key, value, is_set| {
        let origin = match &file {
            Some(path) if is_set => path.display().to_string(),
            _ => "default".into(),
        };
        rows.push(vec![key, value, origin]);
    });
    table(&["KEY", "VALUE", "FROM"], &rows)
}

/// Tells each value, those of tables by `table.key`.
fn collect(
    values: &toml::Table,
    set: &toml::Table,
    prefix: &str,
    tell: &mut impl FnMut(String, String, bool),
) {
    let none = toml::Table::new();
    for (key, value) in values {
        match value {
            toml::Value::Table(inner) => {
                let set = set
                    .get(key)
                    .and_then(toml::Value::as_table)
                    .unwrap_or(&none);
                collect(inner, set, &format!("{prefix}{key}."), tell);
            }
            _ => tell(
                format!("{prefix}{key}"),
                value.to_string(),
                set.contains_key(key),
            ),
        }
    }
}
