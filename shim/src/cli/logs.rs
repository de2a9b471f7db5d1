//! `rust-kata container logs`: what a container has said, and goes on saying.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write, stderr, stdout};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::owner::log::{LogLine, Stream, older};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::Context;
use super::error::CliResult;
use crate::error::Context as _;

/// How long a follower waits before it looks whether the container still runs.
const LOOK: Duration = Duration::from_secs(1);

/// `rust-kata container logs`.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// Go on until the container has ended
    #[arg(long, short)]
    follow: bool,

    /// The last lines alone
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<usize>,

    /// What was said since a point in time (2026-11-23T05:00:00Z) or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,

    /// When each line was said
    #[arg(long, short)]
    timestamps: bool,
}

/// A point in time, or how long ago it was.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let at = SystemTime::now().checked_sub(ago);
        return at.ok_or_else(|| "that was before time began".into());
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "a point in time as 2026-11-23T05:00:00Z, or a time as 10m".into())
}

impl Logs {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.container)?;
        let path = pod.home().container(&name)?.log();
        let since = self.since.map(runtime::engine::time::rfc3339);
        let mut lines = Vec::new();
        let mut reader = Reader::default();
        for file in [older(&path), path.clone()] {
            reader = Reader::open(&file)?;
            lines.extend(reader.lines()?);
        }
        lines.retain(|line| match (LogLine::parse(line), &since) {
            (Some(line), Some(since)) => line.time >= since.as_str(),
            (line, _) => line.is_some(),
        });
        let skip = self.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        lines[skip..].iter().try_for_each(|line| self.show(line))?;
        if self.follow {
            tokio::task::block_in_place(|| self.go_on(&pod, &name, &path, reader))?;
        }
        Ok(())
    }

    /// Shows what is added to the log until the container has ended.
    fn go_on(&self, pod: &PodHandle, name: &str, path: &Path, mut reader: Reader) -> CliResult<()> {
        let dir = path.parent().unwrap_or(path);
        let watch = Watch::new()?;
        watch.add(dir)?;
        loop {
            // Asked before the log is read: what comes after the end is nothing.
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
                reader = Reader::open(path)?;
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
        if self.timestamps {
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

/// Wakes when something in a directory changes.
pub(super) struct Watch(OwnedFd);

impl Watch {
    pub(super) fn new() -> CliResult<Self> {
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        made.doing("watch the log").map(Self)
    }

    pub(super) fn add(&self, dir: &Path) -> CliResult<()> {
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&self.0, dir, changes).on("watch", dir)?;
        Ok(())
    }

    /// Waits for a change; a while at the most, for an owner may be killed.
    pub(super) fn wait(&self) -> CliResult<()> {
        let look = Timespec {
            tv_sec: LOOK.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&look)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).doing("wait for the log"),
        }
        // How often it changed does not matter.
        let _ = rustix::io::read(&self.0, &mut [0u8; 4096]);
        Ok(())
    }
}

/// A log that is written to while it is read.
#[derive(Default)]
pub(super) struct Reader {
    file: Option<BufReader<File>>,
    /// The beginning of a line that has no end yet.
    begun: Vec<u8>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> CliResult<Self> {
        match File::open(path) {
            Ok(file) => Ok(Self {
                file: Some(BufReader::new(file)),
                begun: Vec::new(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).on("open", path),
        }
    }

    /// The lines that have been added.
    pub(super) fn lines(&mut self) -> CliResult<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.file else {
            return Ok(lines);
        };
        loop {
            let read = file
                .read_until(b'\n', &mut self.begun)
                .doing("read the log")?;
            if read == 0 {
                return Ok(lines);
            }
            if self.begun.pop_if(|last| *last == b'\n').is_some() {
                lines.push(std::mem::take(&mut self.begun));
            }
        }
    }

    /// Whether another file is in its place now.
    pub(super) fn was_replaced(&self, path: &Path) -> bool {
        let there = std::fs::metadata(path).map(|data| data.ino()).ok();
        let ours = self
            .file
            .as_ref()
            .and_then(|file| file.get_ref().metadata().ok());
        there.is_some() && there != ours.map(|data| data.ino())
    }
}
