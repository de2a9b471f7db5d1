//! `rust-kata container update`.

use clap::Args;
use runtime::Error;

use super::limits::{LIMIT, Limits};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::select::{Containers, Manner};

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
            return Err(Error::requires("container update", LIMIT).into());
        }
        let resources = self.limits.resources()?;
        let which = self.which.groups(context, Manner::InTurn);
        which
            .one_by_one(async |pod, name| {
                pod.update(name, &resources).await?;
                print(&format!("{name}\n"))
            })
            .await
    }
}
