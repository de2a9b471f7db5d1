//! Processes of this machine as `/proc` shows them.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

/// A process seen in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its command line, words joined by blanks.
    pub command: String,
}

impl Process {
    /// Whether the first word of its command line is a path ending in `name`.
    pub fn is(&self, name: &str) -> bool {
        let word = self.command.split(' ').next().unwrap_or_default();
        word.rsplit('/').next() == Some(name)
    }
}

/// All processes whose environment or command line holds `marker`.
pub fn marked(marker: &str) -> Vec<Process> {
    let mut found: Vec<Process> = pids()
        .into_iter()
        .filter_map(|pid| holds(pid, marker))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn pids() -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn holds(pid: u32, marker: &str) -> Option<Process> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let within = |text: &[u8]| {
        text.windows(marker.len())
            .any(|window| window == marker.as_bytes())
    };
    // A zombie has no command line and is its parent's business.
    (!command.is_empty() && (within(&command) || within(&environment))).then(|| Process {
        pid,
        command: String::from_utf8_lossy(&command)
            .replace('\0', " ")
            .trim_end()
            .to_owned(),
    })
}

/// The parent of `pid`.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The state letter of `pid` (`R`, `S`, `T`, `Z`, …).
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// The words of `/proc/PID/stat` after the command name (proc(5): from field 3).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Proportional set size of `pid` in bytes: all of it, and of that what lies
/// in mappings whose name contains `name`.
pub fn pss(pid: u32, name: &str) -> Option<(u64, u64)> {
    sizes(pid, name, &["Pss:"])
}

/// Bytes of memory that only `pid` has, less what lies in mappings whose name
/// contains `name`.
pub fn private(pid: u32, name: &str) -> Option<u64> {
    let (all, named) = sizes(pid, name, &["Private_Clean:", "Private_Dirty:"])?;
    Some(all - named)
}

/// The sum of these fields of `/proc/PID/smaps` (proc(5)): of all mappings, and
/// of those whose name contains `name`.
fn sizes(pid: u32, name: &str, fields: &[&str]) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut all, mut named, mut within) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            within = line.contains(name);
        } else if fields.contains(&first) {
            let bytes = words
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                << 10;
            all += bytes;
            named += if within { bytes } else { 0 };
        }
    }
    Some((all, named))
}

/// Sends `signal` to `pid`; a process that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Waits until `pid` has ended (it may still be a zombie); says whether it did
/// within `limit`.
pub fn wait_gone(pid: u32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let Some(raw) = rustix::process::Pid::from_raw(pid as i32) else {
        return true;
    };
    let Ok(fd) = pidfd_open(raw, PidfdFlags::empty()) else {
        return true;
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll of a pidfd: {error}"),
        }
    }
}
