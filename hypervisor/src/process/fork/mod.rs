//! clone3(2), the steps of the child, execve(2).
//!
//! ```text
//!  owner (spawner thread)                 child
//!    clone3 ───────────────────────────────▶ waits for "go"
//!    writes uid_map, gid_map                 │
//!    "go" ─────────────────────────────────▶ prepares itself
//!    reads "failed" ◀── step and errno ───── or nothing: execve closes the pipe
//! ```
//!
//! The standard library's `Command` cannot make pid namespaces, and another process must write
//! the id maps of a user namespace.

use std::ffi::{CString, OsString, c_char};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

/// All except the user namespace; see [`Fork::namespaces`].
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// linux/sched.h
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child that runs.
pub(super) struct Forked {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// The reason why it has no user namespace, although it should have one.
    pub weaker: Option<io::Error>,
}

/// A program about to be started.
pub(super) struct Fork {
    pub program: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Becomes its standard input.
    pub stdin: OwnedFd,
    /// Becomes its standard output and error.
    pub output: OwnedFd,
    /// The descriptors that keep their numbers. Closed here once it runs.
    pub fds: Vec<OwnedFd>,
    /// The network namespace that it enters.
    pub netns: Option<File>,
    /// The cgroup in which it starts, if possible: a later move makes the host wait for all of
    /// its processors. The caller checks in which cgroup it runs.
    pub cgroup: Option<File>,
    /// Whether it gets a separate namespace of each kind, or only one for mounts.
    pub namespaces: bool,
}

impl Fork {
    /// Starts it in the calling thread; it dies when that thread ends.
    pub fn start(self) -> io::Result<Forked> {
        if !self.namespaces {
            return self.attempt(0).map_err(|failure| failure.error);
        }
        match self.attempt(NAMESPACES | libc::CLONE_NEWUSER) {
            Err(failure) if nix::unistd::geteuid().is_root() && no_user_namespaces(&failure) => {
                let mut forked = self.attempt(NAMESPACES).map_err(|failure| failure.error)?;
                forked.weaker = Some(failure.error);
                Ok(forked)
            }
            result => result.map_err(|failure| failure.error),
        }
    }

    fn attempt(&self, flags: libc::c_int) -> Result<Forked, Failure> {
        let argv = pointers(&self.args);
        let envp = pointers(&self.env);
        let inherited: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let owner =
            pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(io::Error::from)?;
        let (go, mut send_go) = io::pipe()?;
        let (mut failed, send_failed) = io::pipe()?;
        let child = Child {
            program: self.program.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            stdin: self.stdin.as_raw_fd(),
            output: self.output.as_raw_fd(),
            inherited: &inherited,
            netns: self.netns.as_ref().map(AsRawFd::as_raw_fd),
            unshare: flags & libc::CLONE_NEWNS == 0,
            owner: owner.as_raw_fd(),
            go: go.as_raw_fd(),
            send_go: send_go.as_raw_fd(),
            failed: send_failed.as_raw_fd(),
        };

        // This process's signal handlers must not run in the child.
        let mut mask = SigSet::empty();
        pthread_sigmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut mask),
        )?;
        // SAFETY: like a fork; the child makes system calls only, and uses no memory that
        // another thread may have locked.
        let cloned = unsafe { clone3(flags, self.cgroup.as_ref()) };
        let cloned = match cloned {
            // The cgroup cannot have processes, is of v1, or the kernel is older than 5.7.
            // SAFETY: as above.
            Err(_) if self.cgroup.is_some() => unsafe { clone3(flags, None) },
            cloned => cloned,
        };
        if let Ok(None) = cloned {
            // SAFETY: this is the child, alone in its copy of the memory; pointers in `child`
            // are valid until the program replaces it.
            unsafe { child.run() };
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;

        let cloned = cloned.map_err(|error| Failure {
            error,
            at: Stage::Clone,
        })?;
        let Some((pid, pidfd)) = cloned else {
            return Err(io::Error::other("clone3 returned twice").into());
        };
        drop((go, send_failed));
        let forked = Forked {
            pid,
            pidfd,
            weaker: None,
        };
        let started = release(&forked, flags, &mut send_go)
            .and_then(|()| outcome(&mut failed).map_err(Failure::from));
        drop(send_go);
        match started {
            Ok(()) => Ok(forked),
            Err(err) => {
                forked.discard();
                Err(err)
            }
        }
    }
}

impl Forked {
    /// Kills and reaps it.
    pub fn discard(self) {
        use rustix::process::{Signal, pidfd_send_signal};
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let fd = std::os::fd::AsFd::as_fd(&self.pidfd);
        let _ = waitid(WaitId::PidFd(fd), WaitIdOptions::EXITED);
    }
}

/// How far a start had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no child.
    Clone,
    /// The child was to be given its ids.
    Ids,
    /// Anything before, between and after.
    Other,
}

/// A start that failed.
#[derive(Debug)]
struct Failure {
    error: io::Error,
    at: Stage,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure {
            error,
            at: Stage::Other,
        }
    }
}

impl From<nix::Error> for Failure {
    fn from(errno: nix::Error) -> Failure {
        io::Error::from(errno).into()
    }
}

/// Whether a host that allows no user namespaces fails like this. Anything else is no reason
/// to do without one.
fn no_user_namespaces(failure: &Failure) -> bool {
    let Some(errno) = failure.error.raw_os_error() else {
        return false;
    };
    match failure.at {
        // clone(2): not built in; forbidden or within a chroot; too many or too deep, since
        // Linux 4.9 and before.
        Stage::Clone => [libc::EINVAL, libc::EPERM, libc::ENOSPC, libc::EUSERS].contains(&errno),
        // user_namespaces(7): this process's own namespace has not all ids.
        Stage::Ids => errno == libc::EPERM,
        Stage::Other => false,
    }
}

/// Sends the child its ids and lets it continue.
fn release(forked: &Forked, flags: libc::c_int, go: &mut impl Write) -> Result<(), Failure> {
    if flags & libc::CLONE_NEWUSER != 0 {
        give_ids(forked.pid).map_err(|error| Failure {
            error,
            at: Stage::Ids,
        })?;
    }
    Ok(go.write_all(&[1])?)
}

/// Fills in the maps of the child's user namespace.
fn give_ids(pid: Pid) -> io::Result<()> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        // Every id is mapped to itself, so the files of a share keep their owners.
        fs::write(proc.join("uid_map"), "0 0 4294967295")?;
        return fs::write(proc.join("gid_map"), "0 0 4294967295");
    }
    // user_namespaces(7) lets other users map only themselves.
    fs::write(proc.join("setgroups"), "deny")?;
    fs::write(proc.join("uid_map"), format!("0 {uid} 1"))?;
    fs::write(proc.join("gid_map"), format!("0 {gid} 1"))
}

/// Waits until the program runs, or a step has failed.
fn outcome(failed: &mut impl Read) -> io::Result<()> {
    let mut report = [0; 5];
    match failed.read_exact(&mut report) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(err) => Err(err),
        Ok(()) => {
            let [step, errno @ ..] = report;
            let err = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            Err(match STEPS.get(usize::from(step)) {
                Some(what) => io::Error::new(err.kind(), format!("{what}: {err}")),
                None => err,
            })
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let null = std::iter::once(std::ptr::null());
    strings.iter().map(|s| s.as_ptr()).chain(null).collect()
}

/// The child's id and descriptor, or `None` in the child.
///
/// # Safety
/// As for fork(2) in a process with threads: the child may only make system calls.
unsafe fn clone3(flags: libc::c_int, cgroup: Option<&File>) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    let into_cgroup = cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    let args = libc::clone_args {
        flags: (flags | libc::CLONE_PIDFD) as u64 | into_cgroup,
        cgroup: cgroup.map_or(0, |file| file.as_raw_fd() as u64),
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        // SAFETY: plain numbers; zero means "none".
        ..unsafe { std::mem::zeroed() }
    };
    // SAFETY: `args` outlives the call, and the kernel writes one descriptor to `pidfd`.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) } {
        0 => Ok(None),
        pid if pid > 0 => {
            let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has just opened it for us.
            Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The steps of the child that can fail, by number; exec has its own errors.
const STEPS: [&str; 5] = [
    "cannot be bound to its owner",
    "cannot enter the network namespace",
    "cannot have mounts of its own",
    "cannot be given its descriptors",
    "cannot have a session of its own",
];
const OWNER: u8 = 0;
const NETWORK: u8 = 1;
const MOUNTS: u8 = 2;
const DESCRIPTORS: u8 = 3;
const SESSION: u8 = 4;
const EXEC: u8 = u8::MAX;

type Step<T> = Result<T, (u8, libc::c_int)>;

/// The data of the child, prepared before the clone.
struct Child<'a> {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    stdin: RawFd,
    output: RawFd,
    inherited: &'a [RawFd],
    netns: Option<RawFd>,
    unshare: bool,
    owner: RawFd,
    go: RawFd,
    send_go: RawFd,
    failed: RawFd,
}

impl Child<'_> {
    /// # Safety
    /// In the child only. Only async-signal-safe calls.
    unsafe fn run(&self) -> ! {
        // SAFETY: the same contract.
        let Err((step, errno)) = unsafe { self.exec() };
        let mut report = [step; 5];
        report[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: writes from a local array, then ends the process.
        unsafe {
            libc::write(self.failed, report.as_ptr().cast(), report.len());
            libc::_exit(127)
        }
    }

    /// # Safety
    /// As [`Child::run`].
    unsafe fn exec(&self) -> Step<std::convert::Infallible> {
        // SAFETY: plain system calls; all pointers are to memory that lives until exec.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), OWNER)?;
            // With this end open here, too, the owner's death would not close the pipe.
            libc::close(self.send_go);
            let mut byte = 0u8;
            if libc::read(self.go, (&raw mut byte).cast(), 1) != 1 {
                return Err((OWNER, libc::ESRCH));
            }
            // Check whether the owner ended before the first line took effect. Its process id
            // would not show it: the owner has no id in a nested pid namespace.
            let mut owner = libc::pollfd {
                fd: self.owner,
                events: libc::POLLIN,
                revents: 0,
            };
            if check(libc::poll(&raw mut owner, 1, 0), OWNER)? != 0 {
                return Err((OWNER, libc::ESRCH));
            }
            check(libc::setsid(), SESSION)?;
            if let Some(netns) = self.netns {
                check(libc::setns(netns, libc::CLONE_NEWNET), NETWORK)?;
            }
            if self.unshare {
                check(libc::unshare(libc::CLONE_NEWNS), MOUNTS)?;
            }
            let none = std::ptr::null();
            let flags = libc::MS_REC | libc::MS_SLAVE;
            check(
                libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, flags, none.cast()),
                MOUNTS,
            )?;
            check(libc::dup2(self.stdin, 0), DESCRIPTORS)?;
            check(libc::dup2(self.output, 1), DESCRIPTORS)?;
            check(libc::dup2(self.output, 2), DESCRIPTORS)?;
            let all = libc::c_uint::MAX;
            let mark = libc::CLOSE_RANGE_CLOEXEC;
            let marked = libc::syscall(libc::SYS_close_range, 3, all, mark);
            check(marked as libc::c_int, DESCRIPTORS)?;
            for fd in self.inherited {
                check(libc::fcntl(*fd, libc::F_SETFD, 0), DESCRIPTORS)?;
            }
            // As after a shell: std ignores SIGPIPE.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut empty: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            libc::execve(self.program, self.argv, self.envp);
        }
        Err((EXEC, errno()))
    }
}

fn check(result: libc::c_int, step: u8) -> Step<libc::c_int> {
    if result < 0 {
        Err((step, errno()))
    } else {
        Ok(result)
    }
}

fn errno() -> libc::c_int {
    // SAFETY: the calling thread's own variable.
    unsafe { *libc::__errno_location() }
}

/// A string for execve(2).
pub(super) fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(io::Error::from)
}

/// The environment of this process.
pub(super) fn environment() -> io::Result<Vec<CString>> {
    std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(name)
        })
        .collect()
}

#[cfg(test)]
mod tests;
