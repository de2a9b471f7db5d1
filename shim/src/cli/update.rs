//! `rust-kata container update`.

use clap::Args;
use runtime::Error;

use super::Context;
use super::container::Containers;
use super::error::CliResult;
use super::output::print;
use super::spec::Limits;

/// `rust-kata container update`.
#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    which: Containers,

    #[command(flatten)]
    limits: Limits,
}

impl Update {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        if self.limits.is_empty() {
            let problem = "container update: name a limit to change, as --memory 512m";
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
