//! The start of a process of a VM.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Once;

use super::fork::{Fork, Forked, c_string, environment};
use super::spawner;
use super::{BoundedLog, Process};
use crate::Error;
use crate::vm_process::Role;

/// A process to start.
///
/// It ends with the thread that forks it, and has its own session (the owner handles a
/// terminal's Ctrl-C). Its mount namespace receives later mounts of the host, but its own
/// mounts stay there. It only inherits the descriptors in `fds`.
pub(crate) struct Launch {
    /// Its role in the VM.
    pub role: Role,
    /// Absolute path of its binary.
    pub program: PathBuf,
    /// Its arguments; descriptors in `fds` keep their numbers.
    pub args: Vec<OsString>,
    /// The log file for its standard error.
    pub log: PathBuf,
    /// The parts of the host that it can see.
    pub namespaces: Namespaces,
    /// The cgroup (v2) in which it starts, if possible.
    pub cgroup: Option<PathBuf>,
    /// The descriptors that it inherits. Closed here once it runs.
    pub fds: Vec<OwnedFd>,
}

/// The parts of the host that a process can see.
pub(crate) enum Namespaces {
    /// Only files: it has its own user, pid, network, IPC, UTS and cgroup namespaces, and no
    /// environment. For a program that confines itself to the jail.
    Own,
    /// All except the host's mount namespace, with the network of this namespace.
    Host {
        /// The network namespace, if it is not the host's.
        netns: Option<PathBuf>,
    },
}

impl Launch {
    /// Starts the process and watches it.
    pub async fn start(self) -> Result<Process, Error> {
        let Launch {
            role,
            program,
            args,
            log,
            namespaces,
            cgroup,
            fds,
        } = self;
        let fail = |source| Error::Spawn {
            role,
            path: program.clone(),
            source,
        };
        let (own, netns) = match namespaces {
            Namespaces::Own => (true, None),
            Namespaces::Host { netns } => (false, netns),
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
        let (output, tail) = BoundedLog::start(log)?;
        let argv = std::iter::once(program.clone().into()).chain(args);
        let fork = Fork {
            program: c_string(program.clone().into()).map_err(fail)?,
            args: argv.map(c_string).collect::<Result<_, _>>().map_err(fail)?,
            env: if own {
                Vec::new()
            } else {
                environment().map_err(fail)?
            },
            stdin: File::open("/dev/null").map_err(fail)?.into(),
            output,
            fds,
            netns,
            cgroup: cgroup.and_then(|path| File::open(path).ok()),
            namespaces: own,
        };
        let forked = spawner::fork(|| fork.start(), Forked::discard)
            .await
            .map_err(fail)?;
        if let Some(err) = &forked.weaker {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                log::warn!(
                    "{role} has no user namespace of its own, which makes its jail weaker: {err}"
                );
            });
        }
        Process::watch(role, forked, tail).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_process::ExitStatus;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::Duration;
    use test_support::{Reason, require, root};
    use tokio::time::timeout;

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch {
            role: Role::Vmm,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            log: dir.join("log"),
            namespaces: Namespaces::Own,
            cgroup: None,
            fds: Vec::new(),
        }
    }

    /// Only root can make namespaces.
    #[tokio::test]
    async fn end_is_reported_with_the_last_lines() {
        require!(root());
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
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "exec sleep 1000").start().await.unwrap();

        process.kill();
        let exit = process.exited().await;
        process.kill();

        assert_eq!(exit.status, ExitStatus::Signal(libc::SIGKILL));
        let pid = process.record().pid;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Makes a cgroup of v2, if there is a writable hierarchy.
    fn cgroup() -> Result<PathBuf, Reason> {
        let name = format!("rust-kata-test-{}", std::process::id());
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .filter(|root| Path::new(root).join("cgroup.procs").exists())
            .map(|root| Path::new(root).join(&name))
            .find(|path| std::fs::create_dir(path).is_ok())
            .ok_or(Reason::CgroupV2)
    }

    #[tokio::test]
    async fn process_is_born_in_its_cgroup() {
        require!(root());
        let cgroup = require!(cgroup());
        let dir = tempfile::tempdir().unwrap();
        let mut launch = shell(dir.path(), "exec sleep 1000");
        launch.cgroup = Some(cgroup.clone());

        let process = launch.start().await.unwrap();

        let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        let pid = process.record().pid;
        process.kill();
        process.exited().await;
        std::fs::remove_dir(&cgroup).unwrap();
        assert_eq!(members.trim(), pid.to_string());
    }

    #[tokio::test]
    async fn what_is_no_cgroup_is_no_obstacle() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        for cgroup in [dir.path().to_owned(), dir.path().join("nonexistent")] {
            let mut launch = shell(dir.path(), "exit 3");
            launch.cgroup = Some(cgroup);

            let process = launch.start().await.unwrap();

            assert_eq!(process.exited().await.status, ExitStatus::Code(3));
        }
    }

    #[tokio::test]
    async fn only_given_descriptors_are_inherited() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let mut launch = shell(dir.path(), "exec ls /proc/self/fd");
        launch.fds = vec![theirs.into()];

        let process = launch.start().await.unwrap();
        process.exited().await;

        let listed = std::fs::read_to_string(dir.path().join("log")).unwrap();
        // `ls` has one more descriptor: the directory that it reads.
        assert_eq!(listed.lines().count(), 5, "{listed}");
        assert!(listed.lines().any(|line| line == fd.to_string()));
    }

    #[tokio::test]
    async fn own_namespaces_hide_the_host() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let script = "echo $$; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; \
                      cat /proc/self/uid_map /proc/self/gid_map; readlink /proc/self/ns/*";

        let process = shell(dir.path(), script).start().await.unwrap();
        process.exited().await;

        let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("1"), "{said}");
        for _ in ["uid_map", "gid_map"] {
            let ids: Vec<_> = lines.next().unwrap().split_whitespace().collect();
            assert_eq!(ids, ["0", "0", "4294967295"], "{said}");
        }
        let shared: Vec<_> = lines
            .filter(|line| {
                let kind = line.split(':').next().unwrap();
                let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
                ours.to_str() == Some(line)
            })
            .collect();
        assert!(
            shared.iter().all(|line| line.starts_with("time:")),
            "{shared:?}"
        );
    }

    /// Runs itself again, as root of a user namespace that allows no further ones.
    #[tokio::test]
    async fn host_without_user_namespaces_gets_the_others() {
        const INSIDE: &str = "RUST_KATA_TEST_INSIDE";
        const NAME: &str = "host_without_user_namespaces_gets_the_others";
        require!(root());
        if std::env::var_os(INSIDE).is_none() {
            let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
            let output = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--nocapture", NAME])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{output:?}");
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let script = "readlink /proc/self/ns/user /proc/self/ns/pid";

        let process = shell(dir.path(), script).start().await.unwrap();
        process.exited().await;

        let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let ours = |kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let (user, pid) = said.trim().split_once('\n').unwrap();
        assert_eq!(ours("user").to_str(), Some(user));
        assert_ne!(ours("pid").to_str(), Some(pid));
    }

    #[tokio::test]
    async fn host_namespaces_are_kept_but_for_mounts() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let mut launch = shell(dir.path(), "readlink /proc/self/ns/*");
        launch.namespaces = Namespaces::Host { netns: None };

        let process = launch.start().await.unwrap();
        process.exited().await;

        let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
        for line in said.lines() {
            let kind = line.split(':').next().unwrap();
            let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_eq!(ours.to_str() != Some(line), kind == "mnt", "{line}");
        }
    }

    #[tokio::test]
    async fn process_dies_with_a_caller_that_gave_up() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("exec sleep 1000 > {}", pid.display());

        // The spawner is kept busy, so that the start cannot complete at its first poll.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let busy = spawner::fork(move || Ok(wait.recv()), drop);
        assert!(timeout(Duration::ZERO, busy).await.is_err());

        // Polled once, which sends the job to the spawner, then dropped.
        let start = shell(dir.path(), &script).start();
        assert!(timeout(Duration::ZERO, start).await.is_err());

        go_on.send(()).unwrap();
        // The spawner runs jobs one by one: the first has finished when the next one has.
        let next = shell(dir.path(), "true").start().await.unwrap();
        next.exited().await;
        let children = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .flat_map(|task| {
                let path = task.unwrap().path().join("children");
                std::fs::read_to_string(path)
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            });
        let left: Vec<_> = children
            .filter(|child| {
                let line = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
                line.unwrap_or_default().contains(pid.to_str().unwrap())
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
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
        launch.namespaces = Namespaces::Host {
            netns: Some("/nonexistent/netns".into()),
        };

        let err = launch.start().await.err().unwrap().to_string();

        assert!(err.contains("/nonexistent/netns"), "{err}");
    }
}
