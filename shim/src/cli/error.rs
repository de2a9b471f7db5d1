//! The errors of `rust-kata` and its exit codes.

use crate::error::Error;
use crate::run::OWN_ERROR;

/// The result of a subcommand.
pub(crate) type CliResult<T> = Result<T, Error>;

/// The exit code for an error; as in a shell for a command that cannot be executed.
pub(crate) fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Runtime(runtime::Error::Command { exit_code, .. }) => *exit_code,
        Error::Reported { code } => *code,
        _ => OWN_ERROR,
    }
}

/// A fault in an OCI spec that was built here.
pub(crate) fn spec_error(e: oci_spec::OciSpecError) -> runtime::Error {
    runtime::Error::encode("the OCI spec")(e)
}
