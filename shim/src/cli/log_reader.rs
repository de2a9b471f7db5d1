//! Reading the log of a container while it is written to and rotated.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::error::CliResult;
use crate::error::Context as _;

/// How long a follower waits before it checks whether the container still runs.
const CHECK: Duration = Duration::from_secs(1);

/// Wakes when something in a directory changes.
pub(crate) struct LogWatch(OwnedFd);

impl LogWatch {
    pub(crate) fn new() -> CliResult<Self> {
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        made.doing("watch the log").map(Self)
    }

    pub(crate) fn add(&self, dir: &Path) -> CliResult<()> {
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&self.0, dir, changes).on("watch", dir)?;
        Ok(())
    }

    /// Waits for a change, but no longer than [`CHECK`]: a killed owner changes nothing.
    pub(crate) fn wait(&self) -> CliResult<()> {
        let check = Timespec {
            tv_sec: CHECK.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&check)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).doing("wait for the log"),
        }
        // The number of changes does not matter.
        let _ = rustix::io::read(&self.0, &mut [0u8; 4096]);
        Ok(())
    }
}

/// A log that is read while it is written to.
#[derive(Default)]
pub(crate) struct LogReader {
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    pub(crate) fn open(path: &Path) -> CliResult<Self> {
        match File::open(path) {
            Ok(file) => Ok(Self {
                file: Some(BufReader::new(file)),
                partial: Vec::new(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).on("open", path),
        }
    }

    /// The lines that were added since the last call.
    pub(crate) fn lines(&mut self) -> CliResult<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.file else {
            return Ok(lines);
        };
        loop {
            let read = file
                .read_until(b'\n', &mut self.partial)
                .doing("read the log")?;
            if read == 0 {
                return Ok(lines);
            }
            if self.partial.pop_if(|last| *last == b'\n').is_some() {
                lines.push(std::mem::take(&mut self.partial));
            }
        }
    }

    /// Whether its path leads to another file now.
    pub(crate) fn was_replaced(&self, path: &Path) -> bool {
        let there = std::fs::metadata(path).map(|data| data.ino()).ok();
        let open = self
            .file
            .as_ref()
            .and_then(|file| file.get_ref().metadata().ok());
        there.is_some() && there != open.map(|data| data.ino())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    fn texts(reader: &mut LogReader) -> Vec<String> {
        let lines = reader.lines().unwrap().into_iter();
        lines.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn whole_lines_are_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut none = LogReader::open(&path).unwrap();
        assert!(texts(&mut none).is_empty() && !none.was_replaced(&path));
        let mut log = File::create(&path).unwrap();
        assert!(none.was_replaced(&path));
        let mut reader = LogReader::open(&path).unwrap();
        log.write_all(b"one\ntw").unwrap();
        assert_eq!(texts(&mut reader), ["one"]);
        assert!(texts(&mut reader).is_empty());
        log.write_all(b"o\n\nthree\n").unwrap();
        assert_eq!(texts(&mut reader), ["two", "", "three"]);

        assert!(!reader.was_replaced(&path));
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert!(!reader.was_replaced(&path), "there is no other one yet");
        File::create(&path).unwrap();
        assert!(reader.was_replaced(&path));
        let unreadable = LogReader::open(&path.join("below")).err().unwrap();
        assert!(unreadable.to_string().contains("below"), "{unreadable}");
    }

    #[test]
    fn a_wait_ends_with_a_change_or_soon() {
        let dir = tempfile::tempdir().unwrap();
        let watch = LogWatch::new().unwrap();
        watch.add(dir.path()).unwrap();
        let started = Instant::now();
        std::fs::write(dir.path().join("log"), "x").unwrap();
        watch.wait().unwrap();
        assert!(started.elapsed() < CHECK);
        // The changes were taken together.
        let started = Instant::now();
        watch.wait().unwrap();
        assert!(started.elapsed() >= CHECK / 2);
        assert!(watch.add(&dir.path().join("none")).is_err());
    }
}
