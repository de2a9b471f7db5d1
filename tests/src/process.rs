//! Processes of this machine, as in `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

/// A process in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its command line, joined by blanks.
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
    // A zombie has no command line, and only its parent can remove it.
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
/// The CPU time of a process so far; none once it is gone.
pub fn cpu_time(pid: u32) -> Duration {
    // proc(5), fields 14 and 15, in ticks of 10 ms; the first field here is the third.
    let fields = stat(pid).unwrap_or_default();
    let times = fields.iter().skip(11).take(2);
    let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Proportional set size of `pid` in bytes: of all mappings, and of those whose name contains
/// `name`.
pub fn pss(pid: u32, name: &str) -> Option<(u64, u64)> {
    sizes(pid, name, &["Pss:"])
}

/// Private memory of the VMM `pid` in bytes, without its guest's `guest_bytes`. The guest's
/// memory is the one mapping of exactly that size that is left out of core dumps. Fails if
/// there is none, or more than one.
pub fn private_beside_guest(pid: u32, guest_bytes: u64) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    beside_guest(&text, guest_bytes).map_err(|why| format!("{path}: {why}"))
}

fn beside_guest(smaps: &str, guest_bytes: u64) -> Result<u64, String> {
    let (mut beside, mut guests) = (0, 0);
    let mut lines = smaps.lines().peekable();
    while let Some(line) = lines.next() {
        let size = mapping_size(line).ok_or_else(|| format!("no mapping: {line}"))?;
        let (mut private, mut undumped) = (0, false);
        while let Some(line) = lines.next_if(|line| mapping_size(line).is_none()) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [
                    "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:",
                    kib,
                    "kB",
                ] => {
                    let kib: u64 = kib.parse().map_err(|_| format!("no size: {line}"))?;
                    private += kib << 10;
                }
                ["VmFlags:", ref flags @ ..] => undumped = flags.contains(&"dd"),
                _ => {}
            }
        }
        if size == guest_bytes && undumped {
            guests += 1;
        } else {
            beside += private;
        }
    }
    match guests {
        1 => Ok(beside),
        _ => Err(format!(
            "{guests} mappings of {guest_bytes} bytes that are left out of core dumps, not 1"
        )),
    }
}

/// The size of the mapping that begins with this line, if the line begins one (proc(5)).
fn mapping_size(line: &str) -> Option<u64> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    address(end)?.checked_sub(address(start)?)
}

/// The sum of these fields of `/proc/PID/smaps` (proc(5)): of all mappings, and of those whose
/// name contains `name`.
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

/// Sends `signal` to `pid`; the process may have gone already.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Waits until `pid` has ended (it may still be a zombie); returns whether it did within
/// `limit`.
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

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Private_Clean:         4 kB
Private_Dirty:     90000 kB
VmFlags: rd wr mr mw me ac dd hg
7f0010000000-7f0020000000 rw-p 00000000 00:00 0                          [heap]
Private_Clean:         0 kB
Private_Dirty:        12 kB
VmFlags: rd wr mr mw me ac
7f0030000000-7f0030001000 r-xp 00001000 08:01 42      /usr/bin/name-with-dashes
Private_Clean:         8 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me dd
";

    #[test]
    fn guest_is_the_one_mapping_of_its_size_that_is_not_dumped() {
        assert_eq!(beside_guest(SMAPS, 256 << 20), Ok(20 << 10));
    }

    #[test]
    fn guest_that_is_not_found_or_found_twice_is_an_error() {
        let twice = format!("{SMAPS}{SMAPS}");

        let missing = beside_guest(SMAPS, 128 << 20).unwrap_err();
        let double = beside_guest(&twice, 256 << 20).unwrap_err();

        assert!(missing.starts_with("0 mappings"), "{missing}");
        assert!(double.starts_with("2 mappings"), "{double}");
        let nothing = beside_guest("", 256 << 20).unwrap_err();
        assert!(nothing.starts_with("0 mappings"), "{nothing}");
    }
}
