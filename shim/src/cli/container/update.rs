//! `rust-kata container update`.

use clap::Args;
use runtime::Error;

use super::limits::Limits;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::select::Containers;

/// Arguments of `container update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    which: Containers,

    #[command(flatten)]
    limits: Limits,
}

impl Update {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        if self.limits.is_empty() {
            let problem = "container update: give a limit to change, such as --memory 512m";
            return Err(Error::Invalid(problem.into()).into());
        }
        let resources = self.limits.resources()?;
        for (pod, names) in self.which.by_pod(context)? {
            for name in names {
                pod.update(&name, &resources).await?;
                print(&format!("{name}\n"))?;
            }
        }
        Ok(())
    }
}
