//! `rust-kata container export`.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

use clap::Args;
use runtime::engine::files::copy::export;

use super::output_file::OutputFile;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::select::OneContainer;
use crate::error::{Context as _, Error};

/// Arguments of `container export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    which: OneContainer,

    /// File to write to; an existing one is replaced only by the whole archive [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Stdout for an archive; a terminal is refused.
pub(crate) fn archive_out() -> CliResult<Box<dyn Write + Send>> {
    if stdout().is_terminal() {
        return Err(Error::Terminal);
    }
    Ok(Box::new(stdout()))
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container)?;
        let Some(path) = self.output else {
            return Ok(export(&pod, &name, archive_out()?).await?);
        };
        let file = OutputFile::open(&path).on("create", &path)?;
        let writer = file.writer().on("create", &path)?;
        export(&pod, &name, Box::new(writer)).await?;
        file.keep().on("create", &path)
    }
}
