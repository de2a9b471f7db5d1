//! The output of a stream so far: a thread reads it, and others may wait for a text in it.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The number of bytes that are kept; all are counted and hashed.
const KEPT: usize = 4 << 20;

/// The state of a stream.
#[derive(Clone, Default)]
pub struct Said {
    /// The first bytes, at most 4 MiB.
    pub bytes: Vec<u8>,
    /// The total number of bytes.
    pub length: u64,
    /// The time of the first byte.
    pub first: Option<Instant>,
    /// Whether the stream has ended.
    pub ended: bool,
    digest: Sha256,
}

impl Said {
    /// The kept bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// SHA-256 of all bytes.
    pub fn sha256(&self) -> String {
        hex(&self.digest.clone().finalize())
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
}

/// A stream that a thread reads.
#[derive(Clone, Default)]
pub struct Capture(Arc<Shared>);

impl Capture {
    /// Reads `stream` to its end in the background.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let theirs = capture.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            loop {
                // The master of a pty ends with EIO instead of an empty read.
                let count = match stream.read(&mut buffer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                theirs.push(&buffer[..count]);
                if count == 0 {
                    break;
                }
            }
        });
        capture
    }

    fn push(&self, bytes: &[u8]) {
        let mut said = self.now();
        if bytes.is_empty() {
            said.ended = true;
        } else {
            let room = KEPT.saturating_sub(said.bytes.len()).min(bytes.len());
            said.bytes.extend_from_slice(&bytes[..room]);
            said.length += bytes.len() as u64;
            said.digest.update(bytes);
            said.first.get_or_insert_with(Instant::now);
        }
        drop(said);
        self.0.changed.notify_all();
    }

    /// The present state.
    pub fn now(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `enough` returns a value; `None` if `limit` passes or the stream ends
    /// before.
    pub fn wait<T>(&self, limit: Duration, enough: impl Fn(&Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut said = self.now();
        loop {
            if let Some(found) = enough(&said) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if said.ended {
                return None;
            }
            said = self
                .0
                .changed
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for `text` after the first `from` bytes; returns the position of its end. Panics
    /// and shows the output if it does not come within `limit`.
    #[track_caller]
    pub fn expect_after(&self, from: usize, text: &str, limit: Duration) -> usize {
        let found = self.wait(limit, |said| {
            let tail = said.bytes.get(from..)?;
            tail.windows(text.len())
                .position(|window| window == text.as_bytes())
                .map(|at| from + at + text.len())
        });
        found.unwrap_or_else(|| {
            let said = self.now().text();
            panic!("no {text:?} within {limit:?}; said: {said:?}")
        })
    }

    /// [`Capture::expect_after`] from the beginning.
    #[track_caller]
    pub fn expect(&self, text: &str, limit: Duration) -> usize {
        self.expect_after(0, text, limit)
    }

    /// Waits for the end of the stream and returns everything.
    pub fn finish(&self, limit: Duration) -> Said {
        self.wait(limit, |said| said.ended.then_some(()));
        self.now().clone()
    }
}
