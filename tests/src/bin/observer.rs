//! Times a command, one run after the other, until its input ends: `observer COMMAND ARGS…`.
//! Prints a line for each run, in nanoseconds: how long it took, how long its first thread had
//! a CPU, how much CPU time this machine's host took meanwhile, and how long `true` took after
//! it.
//!
//! It has real-time priority, so that other processes do not delay it. It has a process of its
//! own, since starting a process waits for the starter's other threads: only the command and
//! its own waits are measured.

use std::error::Error;
use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The pause between two runs.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or("observer COMMAND ARGS…")?;
    let args: Vec<String> = args.collect();
    come_first();
    let input = std::io::stdin();
    while poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&PAUSE))? == 0 {
        let before = stolen()?;
        let since = Instant::now();
        let mut command = Command::new(&program);
        let mut child = command.args(&args).stdout(Stdio::null()).spawn()?;
        let ran = ended(&child)?;
        let took = since.elapsed();
        // proc(5) does not guarantee that it never decreases.
        let stolen = stolen()?.saturating_sub(before);
        let status = child.wait()?;
        if !status.success() {
            eprintln!("{program}: {status}");
            return Ok(ExitCode::FAILURE);
        }

        let since = Instant::now();
        Command::new("true").status()?;
        let reference = since.elapsed();
        let [took, ran, stolen, reference] =
            [took, ran, stolen, reference].map(|time| time.as_nanos());
        println!("{took} {ran} {stolen} {reference}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives this thread real-time priority. Niceness would not suffice: it applies only among the
/// processes of a session (sched(7), "The autogroup feature"), and VMs have sessions of their
/// own.
fn come_first() {
    let real_time = libc::sched_param { sched_priority: 1 };
    // SAFETY: sched_setscheduler(2) reads the parameter; 0 is this thread, and its children
    // inherit the policy.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &real_time) } != 0 {
        let error = std::io::Error::last_os_error();
        eprintln!("no real-time priority: {error}");
    }
}

/// Waits for the end of a process, and returns how long its first thread ran.
fn ended(child: &Child) -> Result<Duration, Box<dyn Error>> {
    let pid = Pid::from_raw(child.id() as i32).ok_or("no pid")?;
    let end = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), end)?;
    // The process is a zombie now. The first field is the time on the CPU (the kernel's
    // Documentation/scheduler/sched-stats).
    let text = fs::read_to_string(format!("/proc/{}/schedstat", child.id()))?;
    let ran = text.split(' ').next().ok_or("no schedstat")?;
    Ok(Duration::from_nanos(ran.parse()?))
}

/// The CPU time that this machine's host has taken from all its CPUs (proc(5), field 8 of `cpu`
/// in `stat`), at the kernel's resolution.
fn stolen() -> Result<Duration, Box<dyn Error>> {
    /// USER_HZ of x86-64.
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string("/proc/stat")?;
    let field = text.split_whitespace().nth(8).ok_or("no steal in stat")?;
    Ok(TICK * field.parse()?)
}
