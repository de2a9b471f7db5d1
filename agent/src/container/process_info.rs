//! Information on a process from `/proc` (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;

use protos::MAX_PROCESS_LIST;
use protos::agent::Process;

use crate::error::{Error, Result};
use crate::text::truncate;

/// The longest command line that is reported, in bytes.
const COMMAND: usize = 4096;

/// The shortest limit for a command line, for very long lists.
const SHORT_COMMAND: usize = 32;

/// The size of a process in an answer without its command: seven tags, five numbers of at most
/// ten bytes, two lengths, and the flag for a cut command.
const NUMBERS: usize = 72;

/// Clock ticks a second: `USER_HZ` of Linux on x86.
const TICKS: u64 = 100;

/// The processes of `pids` that have not ended. The answer fits the host's limit.
pub fn list(pids: &[u32]) -> Result<Vec<Process>> {
    let max = command_length(pids.len())?;
    Ok(pids.iter().filter_map(|pid| of(*pid, max)).collect())
}

/// The longest command for each of `count` processes.
fn command_length(count: usize) -> Result<usize> {
    let each = MAX_PROCESS_LIST / count.max(1);
    match each.checked_sub(NUMBERS) {
        Some(room) if room >= SHORT_COMMAND => Ok(room.min(COMMAND)),
        _ => Err(Error::Unsupported(format!(
            "a list of {count} processes: at most {} can be listed",
            MAX_PROCESS_LIST / (NUMBERS + SHORT_COMMAND)
        ))),
    }
}

/// A process, unless it has ended, with at most `max` bytes of its command.
fn of(pid: u32, max: usize) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{dir}/stat")).ok()?;
    let mut process = parse(&stat)?;
    process.pid = pid;
    process.uid = fs::metadata(&dir).ok()?.uid();
    let words = fs::read(format!("{dir}/cmdline")).ok()?;
    let words = words.strip_suffix(&[0]).unwrap_or(&words);
    if !words.is_empty() {
        let words = &words[..words.len().min(max)];
        process.command = String::from_utf8_lossy(words).replace('\0', " ");
        // A replacement character is longer than the byte it replaces.
        truncate(&mut process.command, max);
    }
    Some(process)
}

/// The fields of `/proc/PID/stat`: the name is field 2, and may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    // From field 3 on.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: field(4)? as u32,
        cpu_ms: (field(14)? + field(15)?) * 1000 / TICKS,
        resident_bytes: field(24)? * 4096,
        command: format!("[{name}]"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_ourselves_are_seen() {
        let us = of(std::process::id(), COMMAND).unwrap();
        assert_eq!(us.pid, std::process::id());
        assert!(us.parent > 0 && us.resident_bytes > 0 && !us.command.starts_with('['));
        assert!(of(u32::MAX - 1, COMMAND).is_none());
        assert_eq!(list(&[us.pid, u32::MAX - 1]).unwrap().len(), 1);
    }

    #[test]
    fn a_list_is_as_long_as_the_host_takes() {
        use protobuf::Message;

        let longest = |count: usize| {
            let process = Process {
                pid: u32::MAX,
                parent: u32::MAX,
                uid: u32::MAX,
                cpu_ms: u64::MAX,
                resident_bytes: u64::MAX,
                command: "x".repeat(command_length(count).unwrap() + "...".len()),
                ..Default::default()
            };
            let answer = protos::agent::ListProcessesResponse {
                processes: vec![process; count],
                ..Default::default()
            };
            answer.compute_size() as usize
        };
        for count in [1, 100, 1000, 5041] {
            let length = longest(count);
            // ttrpc wraps it in a status.
            assert!(length + 64 <= MAX_PROCESS_LIST, "{count}: {length}");
        }
        let problem = command_length(5042).unwrap_err().to_string();
        assert!(problem.contains("at most 5041"), "{problem}");
    }

    #[test]
    fn names_with_brackets_and_spaces() {
        let stat =
            "7 (a) (b) S 3 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 9 0 2 18446744073709551615";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.cpu_ms), (3, 3000));
        assert_eq!(
            (process.resident_bytes, process.command.as_str()),
            (8192, "[a) (b]")
        );
        assert!(parse("nonsense").is_none());
    }
}
