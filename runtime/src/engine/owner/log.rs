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

    /// Writes a line that takes this many bytes of the log.
    fn write(log: &mut LogWriter, bytes: usize) {
        const FRAME: usize = "1970-01-01T00:00:00.000000000Z stdout F \n".len();
        let line = format!("{}\n", "x".repeat(bytes - FRAME));
        log.write(Stream::Stdout, line.as_bytes(), SystemTime::UNIX_EPOCH)
            .unwrap();
    }

    /// The sizes of the newer and the older half.
    fn sizes(path: &Path) -> (u64, Option<u64>) {
        let size = |path: &Path| fs::metadata(path).map(|data| data.len());
        (size(path).unwrap(), size(&older(path)).ok())
    }

    #[test]
    fn a_half_is_full_to_the_byte_before_it_is_replaced() {
        for (size_max, half) in [(0, 4096), (8192, 4096), (8193, 4096), (16384, 8192)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = LogWriter::open(&path, size_max).unwrap();
            write(&mut log, half - 100);
            write(&mut log, 100);
            assert_eq!(sizes(&path), (half as u64, None), "{size_max}");
            write(&mut log, 60);
            assert_eq!(sizes(&path), (60, Some(half as u64)), "{size_max}");
            write(&mut log, half - 59);
            assert_eq!(sizes(&path), (half as u64 - 59, Some(60)), "{size_max}");
        }
    }

    #[test]
    fn a_line_that_is_longer_than_a_half_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path, 8192).unwrap();
        write(&mut log, 5000);
        assert_eq!(sizes(&path), (5000, None));
        write(&mut log, 60);
        assert_eq!(sizes(&path), (60, Some(5000)));
    }

    #[test]
    fn a_log_that_is_opened_again_goes_on_where_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || LogWriter::open(&path, 8192).unwrap();
        write(&mut open(), 4000);
        write(&mut open(), 96);
        assert_eq!(sizes(&path), (4096, None));
        write(&mut open(), 60);
        assert_eq!(sizes(&path), (60, Some(4096)));
        assert_eq!(older(&path), dir.path().join("log.1"));
        for half in [&path, &older(&path)] {
            let mode = fs::metadata(half).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "output may be secret");
        }
    }

    #[test]
    fn a_line_has_all_its_parts_or_is_none() {
        let line = |stream, whole, text: &'static str| LogLine {
            time: "T",
            stream,
            whole,
            text: text.as_bytes(),
        };
        for (text, expected) in [
            ("T stdout F a b", Some(line(Stream::Stdout, true, "a b"))),
            ("T stderr P ", Some(line(Stream::Stderr, false, ""))),
            ("T stderr P", None),
            ("T stdout X a", None),
            ("T stdin F a", None),
            ("T", None),
            ("", None),
        ] {
            assert_eq!(LogLine::parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(LogLine::parse(b"\xff stdout F a"), None);
    }
}
