//! `rust-kata container cp`.

use std::io::stdin;

use clap::Args;
use runtime::engine::files::copy::{CopySource, End, Target, copy};

use super::export::archive_out;
use crate::cli::context::Context;
use crate::cli::error::CliResult;

/// Arguments of `container cp`.
///
/// If the target is an existing directory, the source is copied into it under its own name.
/// Links cannot lead out of a container.
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// PATH or CONTAINER:PATH; PATH/. for the content of a directory; - for an archive on stdin
    source: String,

    /// PATH or CONTAINER:PATH; - for an archive on stdout
    target: String,

    /// Give the files to the container's user, or to the caller on the host; false: keep their
    /// owners
    #[arg(long, short, value_name = "BOOL", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    archive: bool,
}

impl Cp {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let source = match self.source.as_str() {
            "-" => CopySource::Archive(Box::new(stdin())),
            path => CopySource::Path(end(context, path)?),
        };
        let target = match self.target.as_str() {
            "-" => Target::Archive(archive_out()?),
            path => Target::Path(end(context, path)?),
        };
        let left_out = copy(source, target, !self.archive).await?;
        if left_out.devices > 0 {
            crate::terminal::say(&format!(
                "{} device node(s) were left out, as nothing for the host; the first is {}",
                left_out.devices, left_out.first
            ));
        }
        Ok(())
    }
}

/// `CONTAINER:PATH`, or a path on the host, which begins with `/` or `.`, or has no
/// colon.
fn end(context: &Context, text: &str) -> CliResult<End> {
    let of_container = text
        .split_once(':')
        .filter(|(container, _)| !container.starts_with(['/', '.']) && !container.is_empty());
    Ok(match of_container {
        None => End::Host(text.into()),
        Some((wanted, path)) => {
            let (pod, container) = context.container(wanted)?;
            End::Container {
                pod,
                container,
                path: path.into(),
            }
        }
    })
}
