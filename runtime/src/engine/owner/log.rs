//! A container's output on disk: lines in the CRI's format, so that tools for a node's logs can
//! read them.
//!
//! ```text
//! 2026-11-23T05:00:00.000000000Z stdout F a whole line
//! 2026-11-23T05:00:00.000000001Z stderr P the beginning of a line that has no end yet
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::engine::time::rfc3339;

/// The stream of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all output of a pty.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes one container's log. The file is bounded: a full file becomes the older half and
/// replaces the previous one.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    half: u64,
    file: File,
    written: u64,
}

impl LogWriter {
    /// Opens the log at `path` for appending.
    pub(crate) fn open(path: &Path, size_max: u64) -> io::Result<Self> {
        let file = append(path)?;
        Ok(Self {
            path: path.to_owned(),
            half: (size_max / 2).max(4096),
            written: file.metadata()?.len(),
            file,
        })
    }

    /// Writes a piece of output. A part of a line is marked as such.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8], now: SystemTime) -> io::Result<()> {
        let stamp = rfc3339(now);
        let mut text = Vec::with_capacity(data.len() + 64);
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            let (part, tag) = match part.strip_suffix(b"\n") {
                Some(line) => (line, 'F'),
                None => (part, 'P'),
            };
            text.extend_from_slice(format!("{stamp} {} {tag} ", stream.name()).as_bytes());
            text.extend_from_slice(part);
            text.push(b'\n');
        }
        if self.written > 0 && self.written + text.len() as u64 > self.half {
            fs::rename(&self.path, older(&self.path))?;
            self.file = append(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(&text)?;
        self.written += text.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The older half of a log.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A line of a log, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When it was written.
    pub time: &'a str,
    /// Its stream.
    pub stream: Stream,
    /// Whether it ends a line.
    pub whole: bool,
    /// The text.
    pub text: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Parses a line of a log, without its line feed; `None` if it is invalid.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self {
            time,
            stream,
            whole,
            text: parts.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_was_said_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path, 1 << 20).unwrap();
        log.write(Stream::Stdout, b"one\ntw", SystemTime::UNIX_EPOCH)
            .unwrap();
        log.write(Stream::Stderr, b"o b\n", SystemTime::UNIX_EPOCH)
            .unwrap();
        let lines = lines(&path);
        let parsed: Vec<_> = lines
            .iter()
            .map(|l| LogLine::parse(l.as_bytes()).unwrap())
            .collect();
        assert_eq!(parsed[0].time, "1970-01-01T00:00:00.000000000Z");
        let said: Vec<_> = parsed.iter().map(|l| (l.stream, l.whole, l.text)).collect();
        assert_eq!(
            said,
            [
                (Stream::Stdout, true, &b"one"[..]),
                (Stream::Stdout, false, b"tw"),
                (Stream::Stderr, true, b"o b")
            ]
        );
        assert_eq!(LogLine::parse(b"nonsense"), None);
    }

    #[test]
    fn it_stays_small_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path, 8192).unwrap();
        for n in 0..1000 {
            let line = format!("line {n}\n");
            log.write(Stream::Stdout, line.as_bytes(), SystemTime::now())
                .unwrap();
        }
        let sizes = [&path, &older(&path)].map(|p| fs::metadata(p).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
        assert!(lines(&path).last().unwrap().ends_with("line 999"));
    }
}
