//! `rust-kata container logs`.

use std::io::{Write, stderr, stdout};
use std::path::Path;

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::owner::log::{LogLine, Stream, older};

use crate::cli::arguments::LogOptions;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::log_reader::{LogReader, LogWatch};
use crate::cli::select::OneContainer;
use crate::error::Context as _;

/// Arguments of `container logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    which: OneContainer,

    #[command(flatten)]
    options: LogOptions,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container)?;
        let path = pod.paths().container(&name)?.log();
        let since = self.options.since.map(runtime::engine::time::rfc3339);
        let mut lines = Vec::new();
        let mut reader = LogReader::default();
        for file in [older(&path), path.clone()] {
            reader = LogReader::open(&file)?;
            lines.extend(reader.lines()?);
        }
        lines.retain(|line| match (LogLine::parse(line), &since) {
            (Some(line), Some(since)) => line.time >= since.as_str(),
            (line, _) => line.is_some(),
        });
        let skip = self
            .options
            .tail
            .map_or(0, |tail| lines.len().saturating_sub(tail));
        lines[skip..].iter().try_for_each(|line| self.show(line))?;
        if self.options.follow {
            tokio::task::block_in_place(|| self.follow(&pod, &name, &path, reader))?;
        }
        Ok(())
    }

    /// Shows the lines that are added to the log until the container has ended.
    fn follow(
        &self,
        pod: &PodHandle,
        name: &str,
        path: &Path,
        mut reader: LogReader,
    ) -> CliResult<()> {
        let dir = path.parent().unwrap_or(path);
        let watch = LogWatch::new()?;
        watch.add(dir)?;
        loop {
            // Read before the log: nothing is added after the container has ended.
            let live = match pod.view() {
                Ok(view) => view.container(name).is_ok_and(|c| c.state.status.is_live()),
                Err(_) => false,
            };
            loop {
                reader
                    .lines()?
                    .iter()
                    .try_for_each(|line| self.show(line))?;
                if !reader.was_replaced(path) {
                    break;
                }
                reader = LogReader::open(path)?;
            }
            if !live {
                return Ok(());
            }
            watch.wait()?;
        }
    }

    fn show(&self, line: &[u8]) -> CliResult<()> {
        let Some(line) = LogLine::parse(line) else {
            return Ok(());
        };
        let mut text = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if line.whole {
            text.push(b'\n');
        }
        let written = match line.stream {
            Stream::Stdout => stdout().write_all(&text).and_then(|()| stdout().flush()),
            Stream::Stderr => stderr().write_all(&text),
        };
        written.doing("write the container's output")
    }
}
