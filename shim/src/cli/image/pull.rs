//! `rust-kata image pull`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::pull::PullOptions;

/// Arguments of `image pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Images: names such as quay.io/org/app:1, or oci:DIR or oci-archive:FILE, optionally with :TAG
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    #[command(flatten)]
    options: PullOptions,
}

impl Pull {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        for image in &self.images {
            let pulled = self.options.pull(context, image, None).await;
            if let Some(pulled) = failures.check(pulled) {
                print(&format!("{}\n", pulled.image().id))?;
            }
        }
        failures.finish()
    }
}
