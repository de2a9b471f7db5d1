//! `rust-kata image inspect`.

use clap::Args;
use runtime::engine::image::ImageView;

use super::Images;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
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
        let found = self.which.images.iter().map(|wanted| images.find(wanted));
        let found = found.collect::<runtime::Result<Vec<ImageView>>>()?;
        let shown = found.iter().map(|image| {
            let mut shown = value(image)?;
            shown["size"] = image.image.size().into();
            Ok(shown)
        });
        json(&shown.collect::<CliResult<Vec<_>>>()?)
    }
}
