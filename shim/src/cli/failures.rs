//! The errors of a command that acts on several objects: each is printed as it comes, and the
//! command goes on with the others.

use std::collections::BTreeSet;

use runtime::ErrorKind;
use runtime::engine::status::Outcome;

use super::error::{CliResult, exit_code};
use crate::error::Error;
use crate::run::OWN_ERROR;

/// The exit code of podman's `rm` commands if all that failed does not exist.
const NOT_FOUND: u8 = 1;

/// Their exit code if all that failed is in use: containers that run, volumes and images that
/// containers use.
const IN_USE: u8 = 2;

/// The errors that were printed.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// The exit code for the errors so far.
    code: Option<u8>,
    /// Containers that run, and are not removed therefore.
    running: BTreeSet<String>,
}

impl Failures {
    /// Prints an error, unless it was printed before.
    pub(crate) fn report(&mut self, error: &Error) {
        self.report_as(error, exit_code(error));
    }

    /// Prints the error of a removal, with podman's exit code for what does not exist or is in
    /// use.
    pub(crate) fn report_removal(&mut self, error: &Error) {
        let code = match error {
            Error::Runtime(error) if error.kind() == ErrorKind::NotFound => NOT_FOUND,
            Error::Runtime(error) if error.kind() == ErrorKind::FailedPrecondition => IN_USE,
            error => exit_code(error),
        };
        self.report_as(error, code);
    }

    /// Notes that containers run: an error of their removal is about that.
    pub(crate) fn note_running(&mut self, containers: impl IntoIterator<Item = String>) {
        self.running.extend(containers);
    }

    fn report_as(&mut self, error: &Error, code: u8) {
        if !matches!(error, Error::Reported { .. }) {
            crate::terminal::say(&error.to_string());
        }
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
            let runs =
                error.kind() == ErrorKind::FailedPrecondition && self.running.contains(&container);
            let error = of_container(container, error);
            match runs {
                true => self.report_as(&error, IN_USE),
                false => self.report(&error),
            }
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
fn of_container(container: String, error: runtime::Error) -> Error {
    match error {
        // The words of the command name themselves.
        error @ runtime::Error::Command { .. } => error.into(),
        error => Error::Container {
            container,
            source: Box::new(error),
        },
    }
}

/// Prints the error of each container but the last, whose error is returned.
pub(crate) fn report_errors(outcome: Outcome) -> CliResult<Vec<String>> {
    let mut errors: Vec<_> = outcome.errors.into_iter().collect();
    let Some((name, last)) = errors.pop() else {
        return Ok(outcome.done);
    };
    for (name, error) in errors {
        crate::terminal::say(&of_container(name, error).to_string());
    }
    Err(of_container(name, last))
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
        let refusal = || runtime::Error::WrongState {
            what: "container",
            id: "c".into(),
            operation: "remove",
            state: "running".into(),
        };
        let removal = |errors: &[Error]| {
            let mut failures = Failures::default();
            errors
                .iter()
                .for_each(|error| failures.report_removal(error));
            code(failures, &[])
        };
        assert_eq!(removal(&[missing(), missing()]), Some(1));
        assert_eq!(removal(&[refusal().into(), refusal().into()]), Some(2));
        assert_eq!(removal(&[refusal().into(), missing()]), Some(125));
        assert_eq!(removal(&[command()]), Some(127));
        for (running, expected) in [("c", 2), ("d", 125)] {
            let mut failures = Failures::default();
            failures.note_running([running.to_owned()]);
            let mut outcome = Outcome::default();
            outcome.errors.insert("c".into(), refusal());
            assert!(failures.check_all(outcome).is_empty());
            assert_eq!(code(failures, &[]), Some(expected), "{running}");
        }
    }
}
