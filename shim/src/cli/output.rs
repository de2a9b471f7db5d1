//! Tables for users, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::error::CliResult;
use crate::error::Context as _;
use crate::terminal::harmless_line;

/// The format of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Prints rows under their heads, each column as wide as its widest cell. Control characters in
/// a cell, such as in a process name from the guest, do not reach the terminal.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> CliResult<()> {
    print(&aligned(heads, rows))
}

fn aligned(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([heads[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let head: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&harmless_line(cell));
            let space = width - cell.chars().count() + 2;
            text.extend(std::iter::repeat_n(' ', space));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// Prints a value as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> CliResult<()> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(runtime::Error::encode("the output"))?;
    text.push('\n');
    print(&text)
}

/// A value as JSON, with times in RFC 3339 instead of the form on disk.
pub(crate) fn value<T: Serialize>(value: &T) -> CliResult<serde_json::Value> {
    let mut value = serde_json::to_value(value).map_err(runtime::Error::encode("the output"))?;
    readable_times(&mut value);
    Ok(value)
}

fn readable_times(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Array(list) => list.iter_mut().for_each(readable_times),
        Value::Object(map) => {
            // serde's form of `SystemTime`.
            let part = |name: &str| map.get(name).and_then(Value::as_u64);
            let time = part("secs_since_epoch").zip(part("nanos_since_epoch"));
            match time {
                Some((seconds, nanos)) if map.len() == 2 => {
                    let since = std::time::Duration::new(seconds, nanos as u32);
                    let at = std::time::SystemTime::UNIX_EPOCH + since;
                    *value = Value::String(runtime::engine::time::rfc3339(at));
                }
                _ => map.values_mut().for_each(readable_times),
            }
        }
        _ => {}
    }
}

/// Prints text. A closed stdout, as with `| head`, is not a failure.
pub(crate) fn print(text: &str) -> CliResult<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.doing("write to stdout"),
    }
}

/// A command, cut to the width of a column.
pub(crate) fn command(words: &[String]) -> String {
    const ROOM: usize = 40;
    let mut text = words.join(" ");
    if let Some((end, _)) = text.char_indices().nth(ROOM) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The time since `at`: `3 minutes ago`.
pub(crate) fn ago(at: std::time::SystemTime) -> String {
    let seconds = at.elapsed().unwrap_or_default().as_secs();
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

/// A number of bytes: `1.5 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1000.0;
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = if number < 10.0 {
        2
    } else {
        usize::from(number < 100.0)
    };
    format!("{number:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown = [0, 999, 1000, 1550, 12_345_678, 999_900_000].map(size);
        assert_eq!(
            shown,
            ["0 B", "999 B", "1.00 kB", "1.55 kB", "12.3 MB", "1.00 GB"]
        );
    }

    #[test]
    fn a_long_command_is_seen_to_go_on() {
        let shown =
            |words: &[&str]| command(&words.iter().map(|w| w.to_string()).collect::<Vec<_>>());
        assert_eq!(shown(&["sleep", "10"]), "sleep 10");
        assert_eq!(shown(&[&"ä".repeat(40)]), "ä".repeat(40));
        assert_eq!(
            shown(&["sh", &"ä".repeat(40)]),
            format!("sh {}…", "ä".repeat(37))
        );
    }

    #[test]
    fn sizes_at_the_edges_of_units_and_digits() {
        for (bytes, shown) in [
            (1, "1 B"),
            (9_994, "9.99 kB"),
            (10_000, "10.0 kB"),
            (99_900, "99.9 kB"),
            (100_000, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (7_000_000_000_000, "7.00 TB"),
            (8_000_000_000_000_000, "8.00 PB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["ä", "long cell", "x"]), row(&["12345", "", ""])];
        assert_eq!(
            aligned(&["ID", "NAME", "LAST"], &rows),
            "ID     NAME       LAST\nä      long cell  x\n12345\n"
        );
        assert_eq!(aligned(&["ID", "NAME"], &[]), "ID  NAME\n");
        // What steers a terminal is shown, not done.
        assert!(!aligned(&["ID"], &[row(&["a\x1b[2Jb"])]).contains('\x1b'));
    }

    #[test]
    fn times_ago_are_told_in_their_largest_unit() {
        let told = |seconds: u64| {
            // Half a second more: the clock goes on.
            let since = std::time::Duration::from_millis(seconds * 1000 + 500);
            ago(std::time::SystemTime::now() - since)
        };
        for (seconds, shown) in [
            (0, "0 seconds ago"),
            (1, "1 second ago"),
            (58, "58 seconds ago"),
            (60, "1 minute ago"),
            (3598, "59 minutes ago"),
            (3600, "1 hour ago"),
            (86_398, "23 hours ago"),
            (86_400, "1 day ago"),
            (864_000, "10 days ago"),
        ] {
            assert_eq!(told(seconds), shown);
        }
        let future = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
        assert_eq!(ago(future), "0 seconds ago");
    }

    #[test]
    fn only_points_in_time_are_written_anew() {
        let found = value(&serde_json::json!({
            "at": { "secs_since_epoch": 1, "nanos_since_epoch": 5 },
            "list": [{ "at": { "secs_since_epoch": 0, "nanos_since_epoch": 0 } }, 7],
            "more": { "secs_since_epoch": 1, "nanos_since_epoch": 5, "x": 1 },
            "half": { "secs_since_epoch": 1 },
        }));
        let expected = serde_json::json!({
            "at": "1970-01-01T00:00:01.000000005Z",
            "list": [{ "at": "1970-01-01T00:00:00.000000000Z" }, 7],
            "more": { "secs_since_epoch": 1, "nanos_since_epoch": 5, "x": 1 },
            "half": { "secs_since_epoch": 1 },
        });
        assert_eq!(found.unwrap(), expected);
    }
}
