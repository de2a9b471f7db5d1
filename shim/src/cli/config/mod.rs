//! `rust-kata config`.

mod show;

use std::path::Path;

use clap::Subcommand;
use runtime::DEFAULT_CONFIG;

use super::error::CliResult;
use super::output::print;

/// `rust-kata config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the values in effect and their origin
    Show(show::Show),
    /// Print a configuration file with every key, its default and its description
    Default,
}

impl Command {
    pub(crate) fn run(&self, explicit: Option<&Path>) -> CliResult<()> {
        match self {
            Self::Default => print(DEFAULT_CONFIG),
            Self::Show(show) => show.run(explicit),
        }
    }
}
