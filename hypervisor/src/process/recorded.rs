//! Kills processes that are known only from a record on disk.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::vm_process::VmProcess;

/// The time that a killed process may take to end.
const LIMIT: Duration = Duration::from_secs(5);

/// A recorded process could not be killed.
#[derive(Debug, thiserror::Error)]
#[error("cannot kill {} (process {}): {source}", process.role, process.pid)]
pub struct KillRecordedError {
    /// The process.
    pub process: VmProcess,
    /// The cause.
    pub source: io::Error,
}

/// Kills the processes of a VM whose owner has died, and waits for their end.
///
/// A process is only killed if its id and its start time are those of the record, so a process
/// with a reused id is safe. Processes that have ended already are no error. All processes are
/// killed before the first error is returned. Blocks, for seconds at most.
pub fn kill_recorded(processes: &[VmProcess]) -> Result<(), KillRecordedError> {
    let error = |process: &VmProcess| {
        let process = process.clone();
        move |source| KillRecordedError { process, source }
    };
    let mut result = Ok(());
    let mut killed = Vec::new();
    for process in processes {
        match kill(process) {
            Ok(Some(pidfd)) => killed.push((process, pidfd)),
            Ok(None) => {}
            Err(err) => result = result.and(Err(error(process)(err))),
        }
    }
    let deadline = Instant::now() + LIMIT;
    for (process, pidfd) in killed {
        result = result.and(wait_gone(&pidfd, deadline).map_err(error(process)));
    }
    result
}

fn kill(process: &VmProcess) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    // The descriptor pins the process: the data read now belongs to it.
    match start_time(process.pid) {
        Ok(start_time) if start_time == process.start_time => {}
        Ok(_) => return Ok(None),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

fn wait_gone(pidfd: &std::os::fd::OwnedFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let fd = PollFd::new(std::os::fd::AsFd::as_fd(pidfd), PollFlags::POLLIN);
        match poll(&mut [fd], timeout) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it does not end within {LIMIT:?}"),
                ));
            }
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Field 22 of `/proc/PID/stat`. The second field, the name, may have any characters, so
/// counting starts after its closing parenthesis.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad /proc/PID/stat"))
}

/// The resource usage of a process of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Its share of memory (`Pss` of proc(5)), in bytes.
    pub memory: u64,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
}

/// The resource usage of a process of the host.
///
/// # Errors
/// The error of reading `/proc`, if the process does not exist.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "bad /proc/PID");
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    // proc(5), /proc/PID/schedstat: time spent on the CPU in ns, of one task.
    let mut cpu_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let ran = stat
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<u64>().ok());
        cpu_ns += ran.unwrap_or(0);
    }
    Ok(Usage {
        memory: kib.ok_or_else(bad)? * 1024,
        cpu_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_process::Role;
    use std::process::{Child, Command};

    fn sleeper() -> (Child, VmProcess) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = VmProcess {
            role: Role::Qemu,
            pid: child.id(),
            start_time: start_time(child.id()).unwrap(),
        };
        (child, process)
    }

    #[test]
    fn recorded_process_is_killed() {
        let (mut child, process) = sleeper();

        kill_recorded(std::slice::from_ref(&process)).unwrap();

        assert!(!child.wait().unwrap().success());
        kill_recorded(&[process]).unwrap();
    }

    #[test]
    fn other_process_with_the_same_id_is_spared() {
        let (mut child, mut process) = sleeper();
        process.start_time += 1;

        kill_recorded(&[process]).unwrap();

        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn nonsense_ids_are_no_error() {
        for pid in [0, u32::MAX, 0x3fff_fff0] {
            let role = Role::Vmm;
            let start_time = 1;
            kill_recorded(&[VmProcess {
                role,
                pid,
                start_time,
            }])
            .unwrap();
        }
    }

    #[test]
    fn start_time_is_that_of_the_kernel() {
        // Field 22; the name, in field 2, has no space here.
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let field = stat.split(' ').nth(21).unwrap();
        let started = start_time(std::process::id()).unwrap();
        assert_eq!(started.to_string(), field);
        let gone = start_time(u32::MAX).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn usage_is_in_bytes_and_nanoseconds() {
        // It keeps the end of a pipe in memory.
        let mut child = Command::new("tail")
            .args(["-c", "33554432"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, &vec![1; 32 << 20]).unwrap();
        let now = usage(child.id()).unwrap();
        drop(input);
        child.wait().unwrap();

        // A part may be in the pipe still.
        let whole = (30 << 20)..(48 << 20);
        assert!(whole.contains(&now.memory), "{now:?}");
        let plausible = 1_000_000..60_000_000_000;
        assert!(plausible.contains(&now.cpu_ns), "{now:?}");
        let gone = usage(u32::MAX).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_end_that_does_not_come_is_an_error() {
        let pid = Pid::from_raw(std::process::id() as i32).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let late = wait_gone(&pidfd, Instant::now()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
