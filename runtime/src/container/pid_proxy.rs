//! The pid proxy: a process on the host that represents a process in the guest.
//!
//! containerd, Kubernetes and operators work with pids of the host: they check that a pid
//! lives, read its namespaces, move it to a cgroup and send it signals. The pid proxy
//! gives each container process such a pid, in the pod's network namespace. It forwards
//! the signals that it gets to the process in the guest. If the proxy is killed, that
//! process is killed. When that process has ended, the proxy is removed before the exit
//! is reported.
//!
//! The proxy is the running binary, started with the argument `hold`: the `main` of each
//! binary must call [`main`] for it. The argument and the process name `rust-kata-holder`
//! are those of earlier builds, because a running shim may start a newer binary.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::{Context, Result};

/// The argument that makes a binary a pid proxy.
pub const ARGUMENT: &str = "hold";

/// A running pid proxy. Killed and reaped on drop.
#[derive(Debug)]
pub struct PidProxy {
    child: Child,
}

/// The signals that a pid proxy forwards; ends with the proxy.
#[derive(Debug)]
pub struct Signals(pipe::Receiver);

impl PidProxy {
    /// Starts a pid proxy. `name` is on its command line, for people; `netns` is its network
    /// namespace, if given.
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

impl Drop for PidProxy {
    fn drop(&mut self) {
        // SIGKILL cannot be refused, so the wait is short.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Signals {
    /// The next signal sent to the pid proxy; always SIGKILL once it has ended.
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

/// Runs the pid proxy: writes each signal that it gets as one byte to stdout, until it
/// is killed.
pub fn main() -> ! {
    let mut all = SigSet::all();
    // These signals concern the pid proxy itself.
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

/// Tests start a pid proxy as every binary does: the test binary runs itself. libtest owns its
/// `main`, so a function that runs before `main` checks for this.
#[cfg(test)]
mod tests {
    use std::ffi::{CStr, c_char, c_int};

    /// gABI, "Initialization and Termination Functions": the loader calls this before `main`.
    /// glibc passes it the arguments of `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BEFORE_MAIN: extern "C" fn(c_int, *const *const c_char) = proxy_if_asked;

    extern "C" fn proxy_if_asked(count: c_int, arguments: *const *const c_char) {
        if count < 2 {
            return;
        }
        // SAFETY: there are `count` arguments, each a string that ends with NUL.
        let name = unsafe { CStr::from_ptr(*arguments) };
        if name == c"rust-kata-holder" {
            super::main();
        }
    }
}
