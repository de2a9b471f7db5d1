//! What `rust-kata` says when something goes wrong, and the code it leaves with.

use runtime::engine::status::Outcome;

use crate::error::Error;
use crate::run::OWN_ERROR;

/// The result of a subcommand.
pub(super) type CliResult<T> = Result<T, Error>;

/// The exit code of a failure: a shell's for a command that cannot be run.
pub(super) fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Runtime(runtime::Error::Command { exit_code, .. }) => *exit_code,
        _ => OWN_ERROR,
    }
}

/// Tells what went wrong for each container but the last, which is the error.
pub(super) fn settle(outcome: Outcome) -> CliResult<Vec<String>> {
    let mut errors: Vec<_> = outcome.errors.into_iter().collect();
    let Some((name, last)) = errors.pop() else {
        return Ok(outcome.done);
    };
    for (name, error) in errors {
        crate::terminal::say(&format!("{name}: {error}"));
    }
    Err(match last {
        error @ runtime::Error::Command { .. } => error,
        error => runtime::Error::Remote {
            kind: error.kind(),
            message: format!("{name}: {error}"),
        },
    }
    .into())
}
