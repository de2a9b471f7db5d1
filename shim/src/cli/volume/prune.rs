//! `rust-kata volume prune`.

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;

/// Removes the volumes that no container uses, and prints their names.
pub(crate) fn prune(context: &Context) -> CliResult<()> {
    let removed = context.engine.prune_volumes()?;
    let names: String = removed.iter().map(|name| format!("{name}\n")).collect();
    print(&names)
}
