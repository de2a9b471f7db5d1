//! `rust-kata container session`: the processes that `container exec` has started
//! in a container, running and ended.

mod inspect;
mod ls;
mod rm;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use runtime::engine::find::only_one;
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

    /// Id of the session, or the beginning of its id
    session: String,
}

/// The session with this id, or with the only id that begins so.
fn find<'a, S>(
    sessions: &'a BTreeMap<String, S>,
    wanted: &str,
) -> Result<(&'a str, &'a S), runtime::Error> {
    if let Some((id, session)) = sessions.get_key_value(wanted) {
        return Ok((id, session));
    }
    let found = sessions
        .iter()
        .filter(|(id, _)| !wanted.is_empty() && id.starts_with(wanted));
    let found = only_one(found.collect(), "exec", wanted, |(id, _)| (*id).clone())?;
    let (id, session) = found.ok_or_else(|| runtime::Error::not_found("exec", wanted))?;
    Ok((id, session))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_the_beginning_of_its_id() {
        let ids = ["abc", "abcd", "f00"];
        let sessions = BTreeMap::from(ids.map(|id| (id.to_owned(), ())));
        let found = |wanted: &str| find(&sessions, wanted).map(|(id, _)| id.to_owned());
        assert_eq!(found("f").unwrap(), "f00");
        // A whole id is not the beginning of another.
        assert_eq!(found("abc").unwrap(), "abc");
        assert_eq!(found("abcd").unwrap(), "abcd");
        let said = found("ab").unwrap_err().to_string();
        assert!(said.contains("abc, abcd"), "{said}");
        for missing in ["", "0", "abcde"] {
            let error = found(missing).unwrap_err();
            assert!(matches!(error, runtime::Error::NotFound { .. }), "{error}");
        }
    }
}
