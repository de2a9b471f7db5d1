//! The holder: a process on the host that stands for a process in the guest.
//!
//! containerd, Kubernetes and people act on pids of the host: they ask whether
//! one lives, look at its namespaces, put it in a cgroup, send it signals. The
//! holder gives each container process such a pid, in the pod's network
//! namespace. Signals that it gets are passed on to the process in the guest;
//! if it is killed, that process is killed; when that process has ended, the
//! holder is gone before anybody is told.
//!
//! It is the running binary started with the one argument `hold`: the front
//! door's `main` must call [`main`] for it.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::{Context, Result};

/// The argument that makes a front door's binary a holder.
pub const ARGUMENT: &str = "hold";

/// A running holder. Killed and reaped on drop.
#[derive(Debug)]
pub struct Holder {
    child: Child,
}

/// The signals that a holder passes on; ends when the holder has.
#[derive(Debug)]
pub struct Signals(pipe::Receiver);

impl Holder {
    /// Starts a holder for the process that `name` tells people about, in the
    /// network namespace `netns` if one is given.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming the namespace or the binary.
    pub async fn start(name: &str, netns: Option<&Path>) -> Result<(Self, Signals)> {
        const EXE: &str = "/proc/self/exe";
        let netns = netns
            .map(|path| File::open(path).on("open the network namespace", path))
            .transpose()?;
        let fd = netns.as_ref().map(AsRawFd::as_raw_fd);
        let parent = std::process::id() as libc::pid_t;
        let (signals, theirs) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
                .on("make a pipe for", EXE)?;
        let mut command = Command::new(EXE);
        command
            .arg0("rust-kata-holder")
            .arg(ARGUMENT)
            .arg(name)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(theirs)
            .stderr(Stdio::null());
        // SAFETY: `prepare` makes async-signal-safe system calls only.
        unsafe { command.pre_exec(move || prepare(fd, parent)) };
        let child = hypervisor::spawn(command).await.on("start", EXE)?;
        let signals = pipe::Receiver::from_owned_fd(signals).on("watch", EXE)?;
        Ok((Self { child }, Signals(signals)))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SIGKILL cannot be refused, so the wait is short.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Signals {
    /// The next signal sent to the holder; SIGKILL when it is gone, for ever.
    pub async fn next(&mut self) -> u32 {
        match self.0.read_u8().await {
            Ok(signal) => u32::from(signal),
            Err(_) => libc::SIGKILL as u32,
        }
    }
}

/// Runs between fork and exec.
fn prepare(netns: Option<RawFd>, parent: libc::pid_t) -> std::io::Result<()> {
    // SAFETY: plain system calls on numbers; async-signal-safe.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
            || netns.is_some_and(|fd| libc::setns(fd, libc::CLONE_NEWNET) != 0)
            || libc::setsid() < 0
        {
            return Err(std::io::Error::last_os_error());
        }
        if libc::getppid() != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

/// The holder's whole life: passes on each signal that it gets as one byte on
/// stdout, until it is killed.
pub fn main() -> ! {
    let mut all = SigSet::all();
    // Stopping, faults and children are about the holder itself.
    for own in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGCHLD,
    ] {
        all.remove(own);
    }
    if all.thread_block().is_err() {
        std::process::exit(1);
    }
    loop {
        if let Ok(signal) = all.wait() {
            let _ = nix::unistd::write(std::io::stdout(), &[signal as u8]);
        }
    }
}
