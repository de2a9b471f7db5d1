//! `rust-kata image load`.

use clap::Args;
use runtime::engine::image::full_name;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::pull::PullOptions;

/// Arguments of `image load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Archive or layout directory; with :TAG if it has several images
    path: String,

    /// Name of the image [default: from the layout, or its path]
    #[arg(long, short, value_name = "NAME")]
    tag: Option<String>,

    /// Hide the progress
    #[arg(long, short)]
    quiet: bool,
}

impl Load {
    pub(crate) async fn run(&self, context: &Context) -> CliResult<()> {
        let (path, _) = self.path.rsplit_once(':').unwrap_or((&self.path, ""));
        let directory = [path, &self.path]
            .iter()
            .any(|path| std::path::Path::new(path).is_dir());
        let kind = if directory { "oci" } else { "oci-archive" };
        let options = PullOptions::from_disk(self.quiet);
        let name = self.tag.as_deref().map(full_name).transpose()?;
        let reference = format!("{kind}:{}", self.path);
        let loaded = options.pull(context, &reference, name).await?;
        let names = loaded.view().names.join(", ");
        print(&format!("Loaded image: {names}\n"))
    }
}
