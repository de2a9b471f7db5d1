//! `rust-kata pod logs`: the output of all containers of a pod, in the order of time.

use std::collections::BTreeMap;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::owner::log::{LogLine, Stream, older};

use crate::cli::arguments::LogOptions;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::log_reader::{LogReader, LogWatch};
use crate::cli::select::OnePod;
use crate::error::Context as _;

/// Arguments of `pod logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    which: OnePod,

    /// Show one container only
    #[arg(long, short, value_name = "CONTAINER")]
    container: Option<String>,

    #[command(flatten)]
    options: LogOptions,
}

/// A line of output.
#[derive(Debug, PartialEq)]
struct Line {
    time: String,
    container: String,
    stream: Stream,
    text: Vec<u8>,
}

/// The log of one container.
struct LogSource {
    container: String,
    path: PathBuf,
    reader: LogReader,
    /// Incomplete lines of stdout and of stderr.
    partial: [Vec<u8>; 2],
}

impl LogSource {
    /// Starts with the older of the two files.
    fn open(pod: &PodHandle, container: &str) -> CliResult<Self> {
        let path = pod.paths().container(container)?.log();
        Ok(Self {
            container: container.to_owned(),
            reader: LogReader::open(&older(&path))?,
            path,
            partial: Default::default(),
        })
    }

    /// The lines added since the last call.
    fn lines(&mut self) -> CliResult<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            for line in self.reader.lines()? {
                lines.extend(self.whole(&line));
            }
            if !self.reader.was_replaced(&self.path) {
                return Ok(lines);
            }
            self.reader = LogReader::open(&self.path)?;
        }
    }

    /// The line that `line` completes, if any.
    fn whole(&mut self, line: &[u8]) -> Option<Line> {
        let line = LogLine::parse(line)?;
        let partial = &mut self.partial[usize::from(line.stream == Stream::Stderr)];
        partial.extend_from_slice(line.text);
        line.whole.then(|| Line {
            time: line.time.to_owned(),
            container: self.container.clone(),
            stream: line.stream,
            text: std::mem::take(partial),
        })
    }
}

impl Logs {
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        tokio::task::block_in_place(|| self.show_all(context))
    }

    fn show_all(&self, context: &Context) -> CliResult<()> {
        let pod = context.pod(&self.which.pod)?;
        let selected: Vec<String> = self.container.iter().cloned().collect();
        pod.view()?.chosen(&selected)?;
        let since = self.options.since.map(runtime::engine::time::rfc3339);
        let watch = LogWatch::new()?;
        let mut sources: BTreeMap<String, LogSource> = BTreeMap::new();
        let mut first = true;
        loop {
            // Read before the logs: nothing is added after the containers have ended.
            let view = pod.view();
            let names = view.as_ref().map(|view| view.chosen(&selected));
            let names = names.ok().and_then(Result::ok).unwrap_or_default();
            let live = view.is_ok_and(|view| {
                let live = view.in_state(|status| status.is_live());
                live.iter().any(|name| names.contains(name))
            });
            for name in &names {
                if !sources.contains_key(name) {
                    watch.add(pod.paths().container(name)?.path())?;
                    sources.insert(name.clone(), LogSource::open(&pod, name)?);
                }
            }
            let mut lines = Vec::new();
            for source in sources.values_mut() {
                let mut added = source.lines()?;
                added.retain(|line| since.as_ref().is_none_or(|since| line.time >= *since));
                let tail = self.options.tail.filter(|_| first).unwrap_or(usize::MAX);
                let skip = added.len().saturating_sub(tail);
                lines.extend(added.drain(skip..));
            }
            lines.sort_by(|a, b| a.time.cmp(&b.time));
            lines.iter().try_for_each(|line| self.show(line))?;
            if !self.options.follow || (!live && !first) {
                break;
            }
            first = false;
            if live {
                watch.wait()?;
            }
        }
        // The last lines may be incomplete.
        for source in sources.values_mut() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let text =
                    std::mem::take(&mut source.partial[usize::from(stream == Stream::Stderr)]);
                if !text.is_empty() {
                    self.show(&Line {
                        time: String::new(),
                        container: source.container.clone(),
                        stream,
                        text,
                    })?;
                }
            }
        }
        Ok(())
    }

    fn show(&self, line: &Line) -> CliResult<()> {
        let mut text = Vec::with_capacity(line.text.len() + 40);
        text.extend_from_slice(format!("{} | ", line.container).as_bytes());
        if self.options.timestamps && !line.time.is_empty() {
            text.extend_from_slice(format!("{} ", line.time).as_bytes());
        }
        text.extend_from_slice(&line.text);
        text.push(b'\n');
        let written = match line.stream {
            Stream::Stdout => stdout().write_all(&text).and_then(|()| stdout().flush()),
            Stream::Stderr => stderr().write_all(&text),
        };
        written.doing("write the output of the containers")
    }
}
