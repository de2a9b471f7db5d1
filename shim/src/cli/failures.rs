//! The errors of a command that acts on several objects: each is printed as it comes, and the
//! command goes on with the others.

use runtime::ErrorKind;
use runtime::engine::status::Outcome;

use super::error::{CliResult, exit_code};
use crate::error::Error;
use crate::run::OWN_ERROR;

/// The exit code of podman's `rm` commands if all that failed does not exist.
const NOT_FOUND: u8 = 1;

/// The errors that were printed.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// The exit code for the errors so far.
    code: Option<u8>,
    removal: bool,
}

impl Failures {
    /// The errors of a command that removes: objects that do not exist have an exit code of
    /// their own, as with podman.
    pub(crate) fn of_removal() -> Self {
        Self {
            removal: true,
            ..Self::default()
        }
    }

    /// Prints an error, unless it was printed before.
    pub(crate) fn report(&mut self, error: &Error) {
        if !matches!(error, Error::Reported { .. }) {
            crate::terminal::say(&error.to_string());
        }
        let code = match error {
            Error::Runtime(error) if self.removal && error.kind() == ErrorKind::NotFound => {
                NOT_FOUND
            }
            error => exit_code(error),
        };
        // The code of one error, or one that fits all.
        let same = self.code.is_none_or(|before| before == code);
        self.code = Some(if same { code } else { OWN_ERROR });
    }

    /// Prints the error of a result, and returns its value.
    pub(crate) fn check<T>(&mut self, result: CliResult<T>) -> Option<T> {
        result.inspect_err(|error| self.report(error)).ok()
    }

    /// Prints the errors of containers; returns the names of the others.
    pub(crate) fn check_all(&mut self, outcome: Outcome) -> Vec<String> {
        for (container, error) in outcome.errors {
            self.report(&of_container(container, error));
        }
        [outcome.done, outcome.ignored].concat()
    }

    /// The result of the command.
    ///
    /// # Errors
    /// [`Error::Reported`] if anything failed.
    pub(crate) fn finish(self) -> CliResult<()> {
        match self.code {
            None => Ok(()),
            Some(code) => Err(Error::Reported { code }),
        }
    }
}

/// The error of an operation on one container, with its name.
pub(crate) fn of_container(container: String, error: runtime::Error) -> Error {
    match error {
        // The words of the command name themselves.
        error @ runtime::Error::Command { .. } => error.into(),
        error => Error::Container {
            container,
            source: Box::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Error {
        runtime::Error::not_found("pod", "p").into()
    }

    fn command() -> Error {
        of_container(
            "c".into(),
            runtime::Error::Command {
                exit_code: 127,
                message: "exec: nope".into(),
            },
        )
    }

    fn code(mut failures: Failures, errors: &[Error]) -> Option<u8> {
        errors.iter().for_each(|error| failures.report(error));
        match failures.finish() {
            Ok(()) => None,
            Err(Error::Reported { code }) => Some(code),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_error_is_kept_whatever_comes_after_it() {
        assert_eq!(code(Failures::default(), &[]), None);
        assert_eq!(code(Failures::default(), &[missing()]), Some(125));
        let mut failures = Failures::default();
        assert_eq!(failures.check::<()>(Err(missing())), None);
        assert_eq!(failures.check(Ok(7)), Some(7));
        let outcome = Outcome {
            done: vec!["a".into()],
            ignored: vec!["b".into()],
            ..Outcome::default()
        };
        assert_eq!(failures.check_all(outcome), ["a", "b"]);
        assert!(matches!(
            failures.finish(),
            Err(Error::Reported { code: 125 })
        ));
    }

    #[test]
    fn a_code_stands_for_all_errors() {
        assert_eq!(code(Failures::default(), &[command()]), Some(127));
        let both = [command(), missing()];
        assert_eq!(code(Failures::default(), &both), Some(125));
        // As podman's `rm` does it.
        assert_eq!(
            code(Failures::of_removal(), &[missing(), missing()]),
            Some(1)
        );
        assert_eq!(code(Failures::of_removal(), &both), Some(125));
    }
}
