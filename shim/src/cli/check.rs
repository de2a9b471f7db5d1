//! `rust-kata check`: whether pods can run on this machine.

use clap::Args;
use runtime::{Verdict, requirements};

use super::arguments::OutputFormat;
use super::context::Context;
use super::error::CliResult;
use super::output::{json, print, table};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    output: OutputFormat,
}

/// The exit code when something is missing.
const MISSING: u8 = 1;

impl Check {
    pub(crate) fn run(self, context: &Context) -> CliResult<u8> {
        let all = requirements(context.engine.config());
        if self.output.is_json() {
            json(&all)?;
        } else {
            let rows = all.iter().map(|one| {
                let verdict = match one.verdict {
                    Verdict::Good => "ok",
                    Verdict::Weak => "weak",
                    Verdict::Missing => "MISSING",
                };
                vec![
                    verdict.into(),
                    one.name.into(),
                    one.needed.clone(),
                    one.found.clone(),
                ]
            });
            table(
                &["", "REQUIREMENT", "NEEDED", "FOUND"],
                &rows.collect::<Vec<_>>(),
            )?;
            for one in all.iter().filter(|one| !one.cure.is_empty()) {
                print(&format!("{}: {}\n", one.name, one.cure))?;
            }
        }
        let missing = all.iter().any(|one| one.verdict == Verdict::Missing);
        Ok(if missing { MISSING } else { 0 })
    }
}
