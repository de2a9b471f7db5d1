//! `rust-kata container session`: the processes that `container exec` has started
//! in a container, running and ended.

mod inspect;
mod ls;
mod rm;

use clap::{Args, Subcommand};
use runtime::engine::records::exec::ExecSession;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::OneContainer;

/// `rust-kata container session`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the sessions of a container
    #[command(alias = "list")]
    Ls(ls::Ls),
    /// Show a session as JSON
    Inspect(inspect::Inspect),
    /// Remove a session that has ended
    Rm(rm::Rm),
}

/// One session.
#[derive(Debug, Args)]
struct OneSession {
    #[command(flatten)]
    container: OneContainer,

    /// Id of the session
    session: String,
}

/// A session, with its id.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    container: &'a str,
    #[serde(flatten)]
    session: &'a ExecSession,
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        match self {
            Self::Ls(ls) => ls.run(context),
            Self::Inspect(inspect) => inspect.run(context),
            Self::Rm(rm) => rm.run(context).await,
        }
    }
}
