//! `rust-kata pod run`.

use clap::Args;

use super::create::Create;
use crate::cli::context::Context;
use crate::cli::error::{CliResult, report_errors};
use crate::cli::output::print;
use crate::cli::progress::with_spinner;

/// Arguments of `pod run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pod: Create,
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let pod = self.pod.create(context)?;
        let doing = format!("Starting pod {}", pod.name());
        report_errors(with_spinner(doing, pod.start(&[], true)).await?)?;
        print(&format!("{}\n", pod.name()))
    }
}
