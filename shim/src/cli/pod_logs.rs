//! `rust-kata pod logs`: what all containers of a pod have said, in the order in
//! which they said it, and go on saying.

use std::collections::BTreeMap;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::owner::log::{LogLine, Stream, older};

use super::Context;
use super::error::CliResult;
use super::logs::{Reader, Watch, moment};
use crate::error::Context as _;

/// `rust-kata pod logs`.
#[derive(Debug, Args)]
pub(super) struct PodLogs {
    /// A pod by name, id or the beginning of an id
    pod: String,

    /// One container of it alone
    #[arg(long, short, value_name = "CONTAINER")]
    container: Option<String>,

    /// Go on until none of its containers runs
    #[arg(long, short)]
    follow: bool,

    /// The last lines of each container alone
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<usize>,

    /// What was said since a point in time (2026-11-23T05:00:00Z) or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,

    /// When each line was said
    #[arg(long, short)]
    timestamps: bool,
}

/// A line that was said.
#[derive(Debug, PartialEq)]
struct Line {
    time: String,
    container: String,
    stream: Stream,
    text: Vec<u8>,
}

/// The log of one container.
struct Source {
    container: String,
    path: PathBuf,
    reader: Reader,
    /// Lines of stdout and of stderr that have no end yet.
    begun: [Vec<u8>; 2],
}

impl Source {
    /// Begins with the older half.
    fn open(pod: &PodHandle, container: &str) -> CliResult<Self> {
        let path = pod.home().container(container)?.log();
        Ok(Self {
            container: container.to_owned(),
            reader: Reader::open(&older(&path))?,
            path,
            begun: Default::default(),
        })
    }

    /// What was added to the log.
    fn lines(&mut self) -> CliResult<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            for line in self.reader.lines()? {
                lines.extend(self.whole(&line));
            }
            if !self.reader.was_replaced(&self.path) {
                return Ok(lines);
            }
            self.reader = Reader::open(&self.path)?;
        }
    }

    /// The line that this ends, if it ends one.
    fn whole(&mut self, line: &[u8]) -> Option<Line> {
        let line = LogLine::parse(line)?;
        let begun = &mut self.begun[usize::from(line.stream == Stream::Stderr)];
        begun.extend_from_slice(line.text);
        line.whole.then(|| Line {
            time: line.time.to_owned(),
            container: self.container.clone(),
            stream: line.stream,
            text: std::mem::take(begun),
        })
    }
}

impl PodLogs {
    pub(super) fn run(self, context: &Context) -> CliResult<()> {
        tokio::task::block_in_place(|| self.show_all(context))
    }

    fn show_all(&self, context: &Context) -> CliResult<()> {
        let pod = context.pod(&self.pod)?;
        let asked: Vec<String> = self.container.iter().cloned().collect();
        pod.view()?.chosen(&asked)?;
        let since = self.since.map(runtime::engine::time::rfc3339);
        let watch = Watch::new()?;
        let mut sources: BTreeMap<String, Source> = BTreeMap::new();
        let mut first = true;
        loop {
            // Asked before the logs are read: what comes after the end is nothing.
            let view = pod.view();
            let names = view.as_ref().map(|view| view.chosen(&asked));
            let names = names.ok().and_then(Result::ok).unwrap_or_default();
            let live = view.is_ok_and(|view| {
                let live = view.in_state(|status| status.is_live());
                live.iter().any(|name| names.contains(name))
            });
            for name in &names {
                if !sources.contains_key(name) {
                    watch.add(pod.home().container(name)?.path())?;
                    sources.insert(name.clone(), Source::open(&pod, name)?);
                }
            }
            let mut lines = Vec::new();
            for source in sources.values_mut() {
                let mut added = source.lines()?;
                added.retain(|line| since.as_ref().is_none_or(|since| line.time >= *since));
                let tail = self.tail.filter(|_| first).unwrap_or(usize::MAX);
                let skip = added.len().saturating_sub(tail);
                lines.extend(added.drain(skip..));
            }
            lines.sort_by(|a, b| a.time.cmp(&b.time));
            lines.iter().try_for_each(|line| self.show(line))?;
            if !self.follow || (!live && !first) {
                break;
            }
            first = false;
            if live {
                watch.wait()?;
            }
        }
        // What was said last may have no end.
        for source in sources.values_mut() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let text = std::mem::take(&mut source.begun[usize::from(stream == Stream::Stderr)]);
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
        if self.timestamps && !line.time.is_empty() {
            text.extend_from_slice(format!("{} ", line.time).as_bytes());
        }
        text.extend_from_slice(&line.text);
        text.push(b'\n');
        let written = match line.stream {
            Stream::Stdout => stdout().write_all(&text).and_then(|()| stdout().flush()),
            Stream::Stderr => stderr().write_all(&text),
        };
        written.doing("write what containers say")
    }
}
