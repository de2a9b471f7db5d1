//! How a process of a VM is started.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{BoundedLog, Process, spawner};
use crate::Error;
use crate::vm::Role;

/// A process about to be started.
///
/// It dies with the thread that forks it, sits in its own session (a terminal's
/// Ctrl-C is for the owner to handle) and its own mount namespace, a slave of the
/// host's so that later mounts in the share tree still show, and keeps no
/// descriptors but `fds`.
pub(crate) struct Launch {
    /// What it does for the VM.
    pub role: Role,
    /// Absolute path of its binary.
    pub program: PathBuf,
    /// Its arguments; descriptors in `fds` keep their numbers.
    pub args: Vec<OsString>,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// The network namespace that it enters.
    pub netns: Option<PathBuf>,
    /// The descriptors that it inherits. Closed here once it runs.
    pub fds: Vec<OwnedFd>,
}

impl Launch {
    /// Starts the process and watches it.
    pub async fn start(self) -> Result<Process, Error> {
        let Launch {
            role,
            program,
            args,
            log,
            netns,
            fds,
        } = self;
        let fail = |source| Error::Spawn {
            role,
            path: program.clone(),
            source,
        };
        let netns = netns
            .map(|path| {
                File::open(&path).map_err(|source| Error::Io {
                    what: "enter network namespace",
                    path,
                    source,
                })
            })
            .transpose()?;
        let (stderr, tail) = BoundedLog::start(log)?;

        let mut command = Command::new(&program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::from(stderr.try_clone().map_err(fail)?))
            .stderr(Stdio::from(stderr));
        let child = Child {
            parent: std::process::id() as libc::pid_t,
            netns: netns.as_ref().map(AsRawFd::as_raw_fd),
            inherited: fds.iter().map(AsRawFd::as_raw_fd).collect(),
        };
        // SAFETY: `Child::prepare` makes system calls only and touches no memory
        // that another thread may have locked at the time of the fork.
        unsafe { command.pre_exec(move || child.prepare()) };
        let child = spawner::spawn(command).await.map_err(fail)?;
        Process::watch(role, child, tail).map_err(fail)
    }
}

/// What the child does between fork and exec. Only async-signal-safe calls.
struct Child {
    parent: libc::pid_t,
    netns: Option<RawFd>,
    inherited: Vec<RawFd>,
}

impl Child {
    fn prepare(&self) -> io::Result<()> {
        // SAFETY: plain system calls; all pointers are to literals that live for ever.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != self.parent {
                // The owner died before the line above took effect.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            check(libc::setsid())?;
            if let Some(netns) = self.netns {
                check(libc::setns(netns, libc::CLONE_NEWNET))?;
            }
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_SLAVE,
                std::ptr::null(),
            ))?;
            // The pipe on which std reports a failed exec is marked already.
            check(libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ) as libc::c_int)?;
            for fd in &self.inherited {
                check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::ExitStatus;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch {
            role: Role::Vmm,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            log: dir.join("log"),
            netns: None,
            fds: Vec::new(),
        }
    }

    /// Namespaces can be made by root only.
    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[tokio::test]
    async fn end_is_told_with_the_last_words() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();

        let process = shell(dir.path(), "echo it broke >&2; exit 3").start().await;

        let exit = process.unwrap().exited().await;
        assert_eq!(exit.status, ExitStatus::Code(3));
        assert_eq!(exit.reason, "it broke");
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(log, "it broke\n");
    }

    #[tokio::test]
    async fn killed_process_is_gone() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "exec sleep 1000").start().await.unwrap();

        process.kill();
        let exit = process.exited().await;
        process.kill();

        assert_eq!(exit.status, ExitStatus::Signal(libc::SIGKILL));
        let pid = process.record().pid;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn only_given_descriptors_are_inherited() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let mut launch = shell(dir.path(), "exec ls /proc/self/fd");
        launch.fds = vec![theirs.into()];

        let process = launch.start().await.unwrap();
        process.exited().await;

        let listed = std::fs::read_to_string(dir.path().join("log")).unwrap();
        // One more is the directory that ls reads.
        assert_eq!(listed.lines().count(), 5, "{listed}");
        assert!(listed.lines().any(|line| line == fd.to_string()));
    }

    #[tokio::test]
    async fn missing_program_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut launch = shell(dir.path(), "");
        launch.program = "/nonexistent/program".into();

        let err = launch.start().await.err().unwrap().to_string();

        assert!(err.contains("/nonexistent/program"), "{err}");
    }

    #[tokio::test]
    async fn missing_namespace_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut launch = shell(dir.path(), "");
        launch.netns = Some("/nonexistent/netns".into());

        let err = launch.start().await.err().unwrap().to_string();

        assert!(err.contains("/nonexistent/netns"), "{err}");
    }
}
