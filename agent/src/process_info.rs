//! What `/proc` says about a process (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;

use protos::agent::Process;

/// As much of a command line as is passed on, in bytes.
const COMMAND: usize = 4096;

/// Clock ticks a second: `USER_HZ` of Linux on x86.
const TICKS: u64 = 100;

/// A process, unless it has ended.
pub fn of(pid: u32) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{dir}/stat")).ok()?;
    let mut process = parse(&stat)?;
    process.pid = pid;
    process.uid = fs::metadata(&dir).ok()?.uid();
    let words = fs::read(format!("{dir}/cmdline")).ok()?;
    let words = words.strip_suffix(&[0]).unwrap_or(&words);
    if !words.is_empty() {
        let words = &words[..words.len().min(COMMAND)];
        process.command = String::from_utf8_lossy(words).replace('\0', " ");
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
        let us = of(std::process::id()).unwrap();
        assert_eq!(us.pid, std::process::id());
        assert!(us.parent > 0 && us.resident_bytes > 0 && !us.command.starts_with('['));
        assert!(of(u32::MAX - 1).is_none());
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
