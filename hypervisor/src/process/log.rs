//! Log files with a bounded size.
//!
//! The output of a process, and in particular the guest's console output, is sent through a
//! socket to a task of the owner, which keeps the file and an older one (`<name>.1`) below a
//! fixed size. If the owner stops reading, the socket gets full, and only log lines are lost.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Error;
use crate::sync::lock;
use crate::text::one_line;

/// The size at which a log is rotated.
const MAX_LOG: u64 = 256 << 10;
/// The most bytes that are written at once; [`RATE`] is the most per second after that. A guest
/// may write forever.
const BURST: u64 = 1 << 20;
/// See [`BURST`].
const RATE: u64 = 256 << 10;
/// The bytes at the end of a log that are kept for error messages.
const TAIL: usize = 4096;
/// The number of its lines in an error.
const LINES: usize = 4;
/// The time to wait for the end of a dead process's log. This only matters if a descendant
/// keeps the socket open.
const DRAIN: Duration = Duration::from_millis(200);

/// Writes one log file, see the module.
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: File,
    written: u64,
}

/// The last lines of a log.
pub(crate) struct Tail {
    text: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
    /// Set after the end of the writer: the rest is read without pacing.
    unpaced: watch::Sender<bool>,
}

impl BoundedLog {
    /// Creates the file and starts the task that fills it from the returned socket.
    pub fn start(path: PathBuf) -> Result<(OwnedFd, Tail), Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io {
                what: "create log",
                path,
                source,
            }
        };
        let file = File::create(&path).map_err(fail(&path))?;
        let (ours, theirs) = StdStream::pair().map_err(fail(&path))?;
        ours.set_nonblocking(true).map_err(fail(&path))?;
        let socket = UnixStream::from_std(ours).map_err(fail(&path))?;
        let log = BoundedLog {
            path,
            file,
            written: 0,
        };
        let text = Arc::default();
        let (unpaced, unpaced_receiver) = watch::channel(false);
        let task = tokio::spawn(log.pump(socket, Arc::clone(&text), unpaced_receiver));
        Ok((
            theirs.into(),
            Tail {
                text,
                task,
                unpaced,
            },
        ))
    }

    async fn pump(
        mut self,
        mut socket: UnixStream,
        tail: Arc<Mutex<Vec<u8>>>,
        mut unpaced: watch::Receiver<bool>,
    ) {
        let mut buffer = vec![0; 4096];
        let mut pace = Pace::default();
        while let Ok(len @ 1..) = socket.read(&mut buffer).await {
            let bytes = &buffer[..len];
            {
                let mut tail = lock(&tail);
                tail.extend_from_slice(bytes);
                let surplus = tail.len().saturating_sub(TAIL);
                tail.drain(..surplus);
            }
            if let Err(err) = self.append(bytes) {
                // Continue to read, since the writer would block otherwise.
                log::warn!("Cannot write {}: {err}", self.path.display());
            }
            // Meanwhile the writer's socket gets full.
            let wait = pace.after(len as u64, Instant::now());
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = unpaced.wait_for(|unpaced| *unpaced) => {}
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written + bytes.len() as u64 > MAX_LOG {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            self.file = File::create(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Slows down a log that keeps growing.
#[derive(Default)]
struct Pace {
    /// The bytes written beyond [`RATE`], as of `at`.
    ahead: u64,
    at: Option<Instant>,
}

impl Pace {
    /// The time to wait after `len` more bytes.
    fn after(&mut self, len: u64, now: Instant) -> Duration {
        let since = now.duration_since(*self.at.get_or_insert(now));
        let paid = since.as_millis() as u64 * RATE / 1000;
        if paid > 0 {
            self.ahead = self.ahead.saturating_sub(paid);
            self.at = Some(now);
        }
        self.ahead += len;
        Duration::from_millis(self.ahead.saturating_sub(BURST) * 1000 / RATE)
    }
}

impl Tail {
    /// The last lines, after the end of the writer.
    pub async fn last_lines(self) -> String {
        let lines = self.lines().await;
        lines[lines.len().saturating_sub(LINES)..].join("; ")
    }

    /// The last line that contains `text`, after the end of the writer.
    pub async fn line_with(self, text: &str) -> Option<String> {
        let lines = self.lines().await;
        lines.into_iter().rfind(|line| line.contains(text))
    }

    async fn lines(mut self) -> Vec<String> {
        self.unpaced.send_replace(true);
        let _ = tokio::time::timeout(DRAIN, &mut self.task).await;
        let text = lock(&self.text);
        String::from_utf8_lossy(&text)
            .lines()
            .map(|line| one_line(line.trim(), TAIL))
            .filter(|line| !line.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_what_goes_on_is_slow() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut written = 0;
        let end = now + Duration::from_secs(10);
        while now < end {
            now += pace.after(4096, now) + Duration::from_micros(10);
            written += 4096;
        }
        let most = BURST + 10 * RATE;
        assert!(
            (most * 9 / 10..most * 11 / 10).contains(&written),
            "{written}"
        );
    }

    #[tokio::test]
    async fn log_stays_small_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (socket, tail) = BoundedLog::start(path.clone()).unwrap();
        let mut socket = StdStream::from(socket);

        let writer = tokio::task::spawn_blocking(move || {
            for number in 0..100_000 {
                writeln!(socket, "line {number}").unwrap();
            }
        });
        writer.await.unwrap();

        let last = tail.last_lines().await;
        assert!(last.ends_with("line 99998; line 99999"), "{last}");
        assert!(fs::metadata(&path).unwrap().len() <= MAX_LOG);
        assert!(fs::metadata(dir.path().join("log.1")).unwrap().len() <= MAX_LOG);
    }

    /// The bounds in numbers: 256 KiB at once, a burst of 1 MiB, then 256 KiB a second.
    #[test]
    fn what_is_beyond_the_burst_is_paid_with_time() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.after(1 << 20, start), ms(0));
        assert_eq!(pace.after(256 << 10, start), ms(1000));
        assert_eq!(pace.after(64 << 10, start), ms(1250));
        assert_eq!(pace.after(0, start + ms(1000)), ms(250));
        assert_eq!(pace.after(0, start + ms(1125)), ms(125));
        // Idle time is not saved up beyond the burst.
        assert_eq!(pace.after(0, start + ms(60_000)), ms(0));
        assert_eq!(pace.after(1 << 20, start + ms(60_000)), ms(0));
        assert_eq!(pace.after(128 << 10, start + ms(60_000)), ms(500));
    }

    #[test]
    fn parts_of_a_millisecond_count_together() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.after((1 << 20) + (256 << 10), start);
        for half in 1..=2000u32 {
            pace.after(0, start + half * Duration::from_micros(500));
        }
        let left = pace.after(0, start + Duration::from_secs(1));
        assert!(left < Duration::from_millis(5), "{left:?}");
    }

    #[test]
    fn a_log_is_full_up_to_the_byte_before_the_next_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let old = dir.path().join("log.1");
        let mut log = BoundedLog {
            file: File::create(&path).unwrap(),
            path: path.clone(),
            written: 0,
        };
        let len = |path: &Path| fs::metadata(path).map(|meta| meta.len()).ok();

        log.append(&vec![b'a'; (256 << 10) - 1]).unwrap();
        log.append(b"b").unwrap();
        assert_eq!((len(&path), len(&old)), (Some(256 << 10), None));
        log.append(b"cd").unwrap();
        assert_eq!((len(&path), len(&old)), (Some(2), Some(256 << 10)));
        log.append(b"e").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"cde");
        log.append(&vec![b'f'; 256 << 10]).unwrap();
        assert_eq!((len(&path), len(&old)), (Some(256 << 10), Some(3)));
    }

    #[tokio::test]
    async fn the_last_lines_are_cleaned_and_found_by_their_text() {
        let dir = tempfile::tempdir().unwrap();
        let text = "one cause\r\ntwo\n\n  three cause \n\x1b[2Jfour\n \nfive\nsix";
        let tail = || {
            let (socket, tail) = BoundedLog::start(dir.path().join("log")).unwrap();
            StdStream::from(socket).write_all(text.as_bytes()).unwrap();
            tail
        };

        let last = tail().last_lines().await;
        assert_eq!(last, "three cause; \\u{1b}[2Jfour; five; six");
        let found = tail().line_with("cause").await;
        assert_eq!(found.as_deref(), Some("three cause"));
        assert_eq!(tail().line_with("seven").await, None);
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), text);
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_line_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, tail) = BoundedLog::start(dir.path().join("log")).unwrap();
        let line = format!("begin{}end", "x".repeat(4096 - 4));
        StdStream::from(socket).write_all(line.as_bytes()).unwrap();
        assert_eq!(tail.last_lines().await, line[line.len() - 4096..]);
    }
}
