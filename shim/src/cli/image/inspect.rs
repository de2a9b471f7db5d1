//! `rust-kata image inspect`.

use clap::Args;
use runtime::engine::image::ImageView;

use super::Images;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::{json, value};

/// Arguments of `image inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: Images,
}

impl Inspect {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let images = context.engine.images()?;
        let mut failures = Failures::default();
        let mut all = Vec::new();
        for wanted in &self.which.images {
            let found = images.find(wanted).map_err(Into::into);
            all.extend(failures.check(found.and_then(show)));
        }
        json(&all)?;
        failures.finish()
    }
}

fn show(image: ImageView) -> CliResult<serde_json::Value> {
    let mut shown = value(&image)?;
    shown["size"] = image.image.size().into();
    Ok(shown)
}
