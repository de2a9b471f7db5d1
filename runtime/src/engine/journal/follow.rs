//! Reading the journal, also while it is being written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use fs2::FileExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Event, Journal};
use crate::error::{Context, Result};

/// Reads the journal from its oldest event on.
#[derive(Debug)]
pub struct Reader {
    journal: Journal,
    file: Option<BufReader<File>>,
    /// The files to read next, oldest first.
    next: VecDeque<File>,
    /// The beginning of an unfinished line.
    begun: Vec<u8>,
}

impl Reader {
    /// Opens the journal. A missing one counts as empty.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn open(journal: &Journal) -> Result<Self> {
        let mut reader = Self {
            journal: journal.clone(),
            file: None,
            next: VecDeque::new(),
            begun: Vec::new(),
        };
        reader.look_for_more()?;
        Ok(reader)
    }

    /// Reads the events since the last call.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            self.read_on(&mut events)?;
            if self.next.is_empty() && self.look_for_more()? {
                // Read the file to its end, since lines may have been added before its
                // replacement.
                self.read_on(&mut events)?;
            }
            match self.next.pop_front() {
                Some(file) => {
                    self.file = Some(BufReader::new(file));
                    self.begun.clear();
                }
                None => return Ok(events),
            }
        }
    }

    fn read_on(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let path = self.journal.log();
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        while file.read_until(b'\n', &mut self.begun).on("read", &path)? > 0 {
            if self.begun.last() == Some(&b'\n') {
                // A line that is not an event was cut by a crash, or is of a later version.
                events.extend(serde_json::from_slice::<Event>(&self.begun));
                self.begun.clear();
            }
        }
        Ok(())
    }

    /// Opens the files after the present one, if there are any.
    fn look_for_more(&mut self) -> Result<bool> {
        let log = self.journal.log();
        let ours = self.file.as_ref().map(|file| inode_of(file.get_ref()));
        let ours = ours.transpose()?;
        match std::fs::metadata(&log) {
            Ok(data) if Some(data.ino()) == ours => return Ok(false),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).on("read", &log),
        }
        let lock = self.journal.lock_file()?;
        FileExt::lock_shared(&lock).on("lock", &log)?;
        for path in [self.journal.older(), log] {
            let Some(file) = open(&path)? else {
                continue;
            };
            // The older half is the file that was read so far: continue with the one after it.
            if Some(inode_of(&file)?) == ours {
                self.next.clear();
            } else {
                self.next.push_back(file);
            }
        }
        Ok(!self.next.is_empty())
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).on("open", path),
    }
}

fn inode_of(file: &File) -> Result<u64> {
    Ok(file.metadata().on("read", "the journal")?.ino())
}

/// Reads the journal, and waits for more events.
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    watch: OwnedFd,
}

impl Follower {
    /// Begins with the oldest event.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn new(journal: &Journal) -> Result<Self> {
        let dir = &journal.dir;
        crate::state_dir::private::make(dir)?;
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).on("watch", dir)?;
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, dir, changes).on("watch", dir)?;
        Ok(Self {
            // Opened after the watch was set: no event in between is missed.
            reader: Reader::open(journal)?,
            watch,
        })
    }

    /// Returns the next events; waits until there are some. Returns `None` at the time `until`.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn next(&mut self, until: Option<SystemTime>) -> Result<Option<Vec<Event>>> {
        loop {
            let events = self.reader.events()?;
            if !events.is_empty() {
                return Ok(Some(events));
            }
            let left = until.map(|until| until.duration_since(SystemTime::now()));
            let left = match left.transpose() {
                Ok(left) => left,
                Err(_) => return Ok(None),
            };
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut fds = [PollFd::new(&self.watch, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).on("wait for", &self.reader.journal.dir),
            }
            // The number of changes does not matter.
            let _ = rustix::io::read(&self.watch, &mut [0u8; 4096]);
        }
    }
}
