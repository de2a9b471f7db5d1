//! The log: logfmt lines, as containerd's own shims write them.
//!
//! containerd reads the bundle's `log` FIFO. It is opened for reading *and* writing,
//! non-blocking: a write then never waits and never raises SIGPIPE, whether containerd reads,
//! is away, or comes back.
//!
//! The guest cannot fill a disk through the log: lines are limited per place in the code
//! (`limit`), and a file written here is limited in size (`file`).

#[cfg(feature = "cli")]
mod file;
mod limit;

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
#[cfg(feature = "cli")]
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Metadata, Record};

#[cfg(feature = "cli")]
use self::file::BoundedFile;
use self::limit::Limiter;

/// A write to a FIFO is atomic up to PIPE_BUF (pipe(7)).
const LINE_MAX: usize = libc::PIPE_BUF;

/// Writes each line to a sink, with the same fields.
struct Logfmt {
    sink: Sink,
    fields: String,
    limiter: Limiter,
}

/// Writes one line.
type Sink = Box<dyn Fn(&[u8]) -> io::Result<()> + Send + Sync>;

/// Opens the bundle's log FIFO, if containerd made one.
pub fn open_fifo(bundle: &Path) -> Option<File> {
    let path = bundle.join("log");
    if !path.symlink_metadata().ok()?.file_type().is_fifo() {
        return None;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()
}

/// Logs to the bundle's FIFO from now on. Without a FIFO nothing is logged.
pub fn to_fifo(bundle: &Path, namespace: &str, id: &str, debug: bool) {
    let Some(fifo) = open_fifo(bundle) else {
        return;
    };
    let mut fields = String::new();
    for (name, value) in [("namespace", namespace), ("id", id)] {
        let _ = write!(fields, " {name}={}", quoted(value));
    }
    to_sink(
        Box::new(move |line| (&fifo).write(line).map(drop)),
        fields,
        debug,
    );
}

/// Logs to a file from now on. The file is emptied first.
#[cfg(feature = "cli")]
pub fn to_file(path: &Path, debug: bool) {
    match BoundedFile::create(path) {
        Ok(file) => {
            let file = Mutex::new(file);
            let append = move |line: &[u8]| {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.append(line)
            };
            to_sink(Box::new(append), String::new(), debug);
        }
        Err(error) => eprintln!("rust-kata: no log at {}: {error}", path.display()),
    }
}

/// Logs to stderr from now on, for `run --verbose`.
pub fn to_stderr(debug: bool) {
    install(Box::new(Plain(Limiter::default())), debug);
}

fn to_sink(sink: Sink, fields: String, debug: bool) {
    let limiter = Limiter::default();
    install(
        Box::new(Logfmt {
            sink,
            fields,
            limiter,
        }),
        debug,
    );
}

fn install(logger: Box<dyn log::Log>, debug: bool) {
    // Only a second call can fail; the first logger then stays.
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

/// Whether a message is logged: the RPC library reports every closed connection as an error,
/// which only debugging shows.
fn wanted(metadata: &Metadata) -> bool {
    log::max_level() >= metadata.level()
        && (log::max_level() >= LevelFilter::Debug || !metadata.target().starts_with("ttrpc"))
}

impl log::Log for Logfmt {
    fn enabled(&self, metadata: &Metadata) -> bool {
        wanted(metadata)
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata())
            && let Some(left_out) = self.limiter.pass(record)
        {
            let message = message(record, left_out);
            let line = logfmt(SystemTime::now(), record.level(), &message, &self.fields);
            // If the log cannot be written, the failure cannot be logged either.
            let _ = (self.sink)(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// `rust-kata: message` on stderr.
struct Plain(Limiter);

impl log::Log for Plain {
    fn enabled(&self, metadata: &Metadata) -> bool {
        wanted(metadata)
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata())
            && let Some(left_out) = self.0.pass(record)
        {
            let level = record.level().as_str().to_lowercase();
            crate::terminal::say(&format!("{level}: {}", message(record, left_out)));
        }
    }

    fn flush(&self) {}
}

fn message(record: &Record, left_out: u32) -> String {
    match left_out {
        0 => record.args().to_string(),
        n => format!("{} ({n} more like this were left out)", record.args()),
    }
}

fn logfmt(at: SystemTime, level: Level, message: &str, fields: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let frame = format!("time=\"{}\" level={level} msg=", rfc3339(at));
    let room = LINE_MAX.saturating_sub(frame.len() + fields.len() + 1);
    let mut text = quoted(message);
    if text.len() > room {
        let mut end = room.saturating_sub(4);
        // Cut neither inside a character nor after a lone backslash.
        while !text.is_char_boundary(end) || text[..end].ends_with('\\') {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...\"");
    }
    format!("{frame}{text}{fields}\n")
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A time in UTC with nanoseconds.
fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Days since 1970-01-01 as a date of the Gregorian calendar. Counts in eras
/// of 400 years from 0000-03-01, so that the leap day ends a year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000000000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_line() {
        let line = logfmt(UNIX_EPOCH, Level::Warn, "a \"b\"\nc", " id=\"x\"");
        assert_eq!(
            line,
            "time=\"1970-01-01T00:00:00.000000000Z\" level=warning msg=\"a \\\"b\\\"\\nc\" id=\"x\"\n"
        );
    }

    #[test]
    fn a_long_line_stays_one_write() {
        for message in ["é".repeat(5000), "\\".repeat(5000), "\"".repeat(5000)] {
            let line = logfmt(UNIX_EPOCH, Level::Info, &message, " id=\"x\"");
            assert!(line.len() <= LINE_MAX);
            assert!(line.ends_with("...\" id=\"x\"\n"), "{line}");
        }
    }

    #[test]
    fn the_fifo_needs_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open_fifo(dir.path()).is_none());
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut fifo = open_fifo(dir.path()).unwrap();

        while fifo.write(&[b'x'; LINE_MAX]).is_ok() {}

        let mut first = [0; 1];
        fifo.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"x");
    }

    #[test]
    fn dates_around_leap_days_and_the_ends_of_eras() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (364, (1970, 12, 31)),
            (789, (1972, 2, 29)),
            (790, (1972, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (157_113, (2400, 2, 29)),
            (157_114, (2400, 3, 1)),
            (-719_468, (0, 3, 1)),
            (-719_469, (0, 2, 29)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
        // As `date -u -d @N` has it.
        let at = |seconds, nanos| rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(1_700_000_000, 7), "2023-11-14T22:13:20.000000007Z");
        assert_eq!(at(86_399, 999_999_999), "1970-01-01T23:59:59.999999999Z");
    }

    #[test]
    fn levels_have_the_names_that_containerd_knows() {
        for (level, name) in [
            (Level::Error, "level=error "),
            (Level::Warn, "level=warning "),
            (Level::Info, "level=info "),
            (Level::Debug, "level=debug "),
            (Level::Trace, "level=debug "),
        ] {
            let line = logfmt(UNIX_EPOCH, level, "x", "");
            assert!(line.contains(name), "{line}");
        }
    }

    #[test]
    fn a_line_that_just_fits_is_whole() {
        let frame = logfmt(UNIX_EPOCH, Level::Info, "", " id=\"x\"").len();
        let whole = "x".repeat(LINE_MAX - frame);
        let line = logfmt(UNIX_EPOCH, Level::Info, &whole, " id=\"x\"");
        assert_eq!(line.len(), LINE_MAX);
        assert!(line.contains(&format!("{whole}\" id")));
        let line = logfmt(UNIX_EPOCH, Level::Info, &format!("{whole}x"), " id=\"x\"");
        assert!(line.ends_with("xx...\" id=\"x\"\n") && line.len() <= LINE_MAX);
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let told = |left_out| {
            let record = Record::builder().args(format_args!("said")).build();
            message(&record, left_out)
        };
        assert_eq!(told(0), "said");
        assert_eq!(told(3), "said (3 more like this were left out)");
    }
}
