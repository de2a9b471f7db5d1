//! The journal: the events of pods, containers and the engine's other objects, in order, one
//! line of JSON each.
//!
//! ```text
//! <data_root>/events/  lock       flock: exclusive to append, shared to open both files
//!                      log log.1  the newer and the older half
//! ```
//!
//! A line is appended after the change was made, by one writev(2) under the lock, so that lines
//! are whole and in order; fdatasync(2) follows. This lock is taken after all others, and held
//! for that write alone. If a writer dies within a line, the next writer ends that line, and
//! readers skip it.

mod filter;
mod follow;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs2::FileExt;
use serde::{Deserialize, Serialize};

pub use self::filter::Filter;
pub use self::follow::{Follower, Reader};
use super::time::rfc3339;
use crate::blocking::blocking;
use crate::error::{Context, Error, Result};

/// The size of each of the two files in bytes.
const HALF: u64 = 4 << 20;

/// The longest line in bytes: a longer event loses its labels.
const LONGEST: usize = 64 << 10;

/// The kind of object that an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Kind {
    Pod,
    Container,
    Image,
    Volume,
}

impl Kind {
    /// Its name in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
        }
    }
}

/// An event (a line of the journal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded: RFC 3339, to the nanosecond.
    pub time: String,
    /// The kind of its object.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The action, in podman's words: `create`, `died`, `exec_died` …
    pub action: String,
    /// The namespace; empty for objects without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The pod's name; that of its container's pod for a container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The name of the object.
    pub name: String,
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Further details: `exit_code`, `signal`, `exec` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The labels of the object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Event {
    /// An event; its time is set when it is appended.
    pub fn new(kind: Kind, action: &str, name: &str, id: &str) -> Self {
        Self {
            time: String::new(),
            kind,
            action: action.to_owned(),
            namespace: String::new(),
            pod: String::new(),
            name: name.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// The same event with another action.
    #[must_use]
    pub fn action(mut self, action: &str) -> Self {
        self.action = action.to_owned();
        self
    }

    /// The same event with another attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.to_owned(), value.to_string());
        self
    }

    fn line(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(Error::encode("an event"))
    }
}

/// The journal of a data directory. Cheap to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal of the engine whose data is at `data_root`.
    pub fn of(data_root: &Path) -> Self {
        Self {
            dir: data_root.join("events"),
        }
    }

    /// Appends an event of something that has happened already: a failure is only logged.
    pub fn append_or_warn(&self, event: Event) {
        let what = format!("{} {} {}", event.kind.name(), event.action, event.name);
        if let Err(e) = self.append(event) {
            log::warn!("The event {what:?} is not in the journal: {e}");
        }
    }

    /// Appends an event with the current time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&self, event: Event) -> Result<()> {
        blocking(|| self.append_bounded(event, HALF))
    }

    fn append_bounded(&self, mut event: Event, half: u64) -> Result<()> {
        crate::state_dir::private::make(&self.dir)?;
        let lock = self.lock_file()?;
        FileExt::lock_exclusive(&lock).on("lock", self.dir.join("lock"))?;
        event.time = rfc3339(SystemTime::now());
        let mut line = event.line()?;
        if line.len() > LONGEST {
            event.labels.clear();
            line = event.line()?;
        }
        let path = self.log();
        let mut file = self.open_log(&path)?;
        let mut size = file.metadata().on("read", &path)?.len();
        if size > 0 && size + line.len() as u64 >= half {
            fs::rename(&path, self.older()).on("rename", &path)?;
            file = self.open_log(&path)?;
            size = 0;
        }
        let before: &[u8] = if is_torn(&file, size) { b"\n" } else { b"" };
        let parts = [before, &line, b"\n"].map(IoSlice::new);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let written = file.write_vectored(&parts).on("write", &path)?;
        if written < length {
            // The disk is full: remove the part that was written.
            let _ = file.set_len(size);
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(full).on("write", &path);
        }
        drop(lock);
        file.sync_data().on("sync", &path)?;
        if size == 0 {
            // The file has just been renamed.
            let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
            dir.on("sync", &self.dir)?;
        }
        Ok(())
    }

    fn open_log(&self, path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        options.open(path).on("open", path)
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).open(&path).on("open", &path)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn older(&self) -> PathBuf {
        self.dir.join("log.1")
    }
}

/// Whether a writer died within the last line.
fn is_torn(file: &File, size: u64) -> bool {
    let mut last = [b'\n'];
    size > 0 && file.read_exact_at(&mut last, size - 1).is_ok() && last != [b'\n']
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        Event::new(Kind::Pod, "create", &format!("pod-{n}"), "id")
    }

    fn names(journal: &Journal) -> Vec<String> {
        let events = Reader::open(journal).unwrap().events().unwrap();
        events.into_iter().map(|event| event.name).collect()
    }

    #[test]
    fn what_is_appended_is_read_in_order() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        assert!(names(&journal).is_empty());
        let appended = event(1).with("exit_code", 137);
        journal.append(appended).unwrap();
        journal.append(event(2)).unwrap();
        let events = Reader::open(&journal).unwrap().events().unwrap();
        assert_eq!(events[0].attributes["exit_code"], "137");
        assert_eq!(names(&journal), ["pod-1", "pod-2"]);
        assert!(events[0].time < events[1].time);
    }

    #[test]
    fn a_torn_line_is_passed_over_and_harms_no_other() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        journal.append(event(1)).unwrap();
        let whole = fs::read(journal.log()).unwrap();
        for cut in 1..whole.len() - 1 {
            fs::write(journal.log(), [&whole[..], &whole[..cut]].concat()).unwrap();
            assert_eq!(names(&journal), ["pod-1"]);
            journal.append(event(2)).unwrap();
            assert_eq!(names(&journal), ["pod-1", "pod-2"], "cut at {cut}");
        }
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        for n in 0..100 {
            journal.append_bounded(event(n), 1000).unwrap();
        }
        let size = |path: PathBuf| fs::metadata(path).unwrap().len();
        assert!(size(journal.log()) < 1000 && size(journal.older()) < 1000);
        let names = names(&journal);
        assert!(names.len() >= 8, "{names:?}");
        assert_eq!(names.last().unwrap(), "pod-99");
    }

    #[test]
    fn a_follower_misses_nothing_over_rotations() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        journal.append_bounded(event(0), 2000).unwrap();
        let mut follower = Follower::new(&journal).unwrap();
        let mut seen = Vec::new();
        for n in 1..300 {
            journal.append_bounded(event(n), 2000).unwrap();
            if n % 11 == 0 || n == 299 {
                let events = follower.next(None).unwrap().expect("no end is set");
                seen.extend(events.into_iter().map(|event| event.name));
            }
        }
        let expected: Vec<_> = (0..300).map(|n| format!("pod-{n}")).collect();
        assert_eq!(seen, expected);
        let soon = SystemTime::now() + std::time::Duration::from_millis(20);
        assert_eq!(follower.next(Some(soon)).unwrap(), None);
    }

    #[test]
    fn a_follower_wakes_for_what_comes() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        let mut follower = Follower::new(&journal).unwrap();
        let (ready, begin) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            ready.send(()).unwrap();
            follower.next(None).unwrap().expect("no end is set")
        });
        begin.recv().unwrap();
        journal.append(event(7)).unwrap();
        assert_eq!(reader.join().unwrap()[0].name, "pod-7");
    }

    #[test]
    fn writers_side_by_side_leave_whole_lines_in_order_of_time() {
        let root = tempfile::tempdir().unwrap();
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let journal = Journal::of(root.path());
                std::thread::spawn(move || {
                    for n in 0..50 {
                        journal.append(event(n)).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let journal = Journal::of(root.path());
        let events = Reader::open(&journal).unwrap().events().unwrap();
        assert_eq!(events.len(), 200);
        assert!(events.is_sorted_by_key(|event| event.time.clone()));
    }

    #[test]
    fn endless_labels_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::of(root.path());
        let mut long = event(1);
        long.labels.insert("a".into(), "x".repeat(LONGEST));
        journal.append(long).unwrap();
        let events = Reader::open(&journal).unwrap().events().unwrap();
        assert!(events[0].labels.is_empty());
    }
}
