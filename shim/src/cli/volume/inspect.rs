//! `rust-kata volume inspect`.

use clap::Args;

use super::{Volumes, readable};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::{json, value};

/// Arguments of `volume inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: Volumes,
}

impl Inspect {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let all = readable(context)?;
        let mut failures = Failures::default();
        let mut found = Vec::new();
        for name in &self.which.volumes {
            let one = all.iter().find(|view| view.volume.name == *name);
            let one = one.ok_or_else(|| runtime::Error::not_found("volume", name).into());
            found.extend(failures.check(one.and_then(value)));
        }
        json(&found)?;
        failures.finish()
    }
}
