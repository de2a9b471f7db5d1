//! `rust-kata check`: whether pods can run here, and what to do if not.

use clap::Args;
use runtime::{Verdict, requirements};

use super::Context;
use super::error::CliResult;
use super::output::{Format, json, print, table};

/// `rust-kata check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The exit code when something is missing.
const MISSING: u8 = 1;

impl Check {
    pub(super) fn run(self, context: &Context) -> CliResult<u8> {
        let all = requirements(context.engine.config());
        if self.format == Format::Json {
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
