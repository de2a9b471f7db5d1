//! Arguments that several commands have.

use std::time::SystemTime;

use clap::Args;

use super::output::Format;
use super::values::{moment, signal};

/// `--format`.
#[derive(Debug, Args)]
pub(crate) struct OutputFormat {
    /// Set the output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

impl OutputFormat {
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }
}

/// `--label`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Labels {
    /// Set a label
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
}

/// `--signal`.
#[derive(Debug, Args)]
pub(crate) struct Signal {
    /// Signal to send
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub(crate) signal: i32,
}

/// `--time`.
#[derive(Debug, Args)]
pub(crate) struct StopTimeout {
    /// Seconds to wait before SIGKILL, instead of the container's own; 0: kill at once
    #[arg(long, short, value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
}

/// `--env`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Environment {
    /// Set an environment variable; without a value: the caller's, if set
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
}

/// Ctrl-P, Ctrl-Q.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// `--detach-keys`.
#[derive(Debug, Args)]
pub(crate) struct DetachKeys {
    /// Key sequence for detaching
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    pub(crate) detach_keys: String,
}

/// Which lines of a log, and how they are shown.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Follow the log until the containers have ended
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// Show the last N lines of each container
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<usize>,

    /// Show lines since a time (2026-11-23T05:00:00Z) or for a duration (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<SystemTime>,

    /// Show the time of each line
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}
