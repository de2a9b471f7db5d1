//! Containers for tests, whose init is a child of the test.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio as Pipe};
use std::sync::MutexGuard;
use std::time::Duration;

use test_support::Reason;
use tokio::sync::oneshot;

use super::*;
use crate::guest::reaper::{self, Exit, Reaper};
use crate::launch::spawn::{Spawner, Started};
use crate::launch::zygote::Zygote;
use crate::stdio::Stdio;

/// An environment in which nothing can be started.
pub fn environment() -> Environment {
    Environment {
        spawner: Arc::new(Spawner {
            zygote: Zygote::none(),
            reaper: Arc::new(Reaper::default()),
        }),
        events: Arc::new(Events::new()),
        arrivals: Arrivals::new(Duration::from_millis(20)),
    }
}

/// A container that was created, in this cgroup, whose init does not run yet.
pub fn created(id: &str, cgroup: &Cgroup) -> Arc<Container> {
    let environment = environment();
    Arc::new(Container {
        id: id.to_owned(),
        oom: OomWatch::idle(id, cgroup, &environment.events),
        environment,
        cgroup: cgroup.clone(),
        inherited: Inherited::default(),
        private_pid_namespace: true,
        poststart: Vec::new(),
        poststop: Vec::new(),
        init: Arc::new(Process::new(id, "", Connections::default())),
        execs: Mutex::default(),
        status: Mutex::new(Status::Created),
        changes: tokio::sync::Mutex::new(()),
    })
}

/// A real cgroup, as long as the value lives.
pub struct RealCgroup(pub Cgroup, PathBuf);

impl RealCgroup {
    /// # Errors
    /// Without root or cgroup v2.
    pub fn new(name: &str) -> std::result::Result<RealCgroup, Reason> {
        test_support::root()?;
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists());
        let path = root.ok_or(Reason::CgroupV2)?;
        let path = path.join(format!("rust-kata-{name}-{}", std::process::id()));
        fs::create_dir(&path).map_err(|_| Reason::CgroupV2)?;
        Ok(RealCgroup(Cgroup::within(&path), path))
    }
}

impl Drop for RealCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.1.join("cgroup.kill"), "1");
        let _ = fs::remove_dir(&self.1);
    }
}

/// A process that ends with code 7 once it is told to.
pub struct Program {
    pub pid: i32,
    go: Option<std::process::ChildStdin>,
    // Last: another test may wait for children from then on.
    _children: MutexGuard<'static, ()>,
}

impl Program {
    /// Has it run as this process, in this cgroup if there is one.
    pub fn run(process: &Arc<Process>, oom: &Arc<OomWatch>, cgroup: Option<&RealCgroup>) -> Self {
        Self::run_then(process, oom, cgroup, || {})
    }

    /// The same; `after` runs at its end.
    pub fn run_then(
        process: &Arc<Process>,
        oom: &Arc<OomWatch>,
        cgroup: Option<&RealCgroup>,
        after: impl FnOnce() + Send + 'static,
    ) -> Self {
        let children = reaper::children();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read _; exit 7"]).stdin(Pipe::piped());
        let mut child = command.spawn().unwrap();
        let (pid, go) = (child.id() as i32, child.stdin.take());
        if let Some(cgroup) = cgroup {
            fs::write(cgroup.1.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        let pid_file = rustix_pidfd(pid);
        let (sender, exit) = oneshot::channel();
        std::thread::spawn(move || sender.send(ended(&mut child)));
        drop(process.begin().unwrap());
        let started = Started {
            pid,
            pidfd: pid_file,
            exit,
            master: None,
        };
        process.run(started, Stdio::default(), oom, after);
        Program {
            pid,
            go,
            _children: children,
        }
    }

    /// Lets it end.
    pub fn end(&mut self) {
        self.go.take();
    }
}

fn ended(child: &mut Child) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    let status = child.wait().unwrap();
    match status.signal() {
        Some(signal) => Exit {
            status: 128 + signal as u32,
            killed: signal == libc::SIGKILL,
        },
        None => Exit {
            status: status.code().unwrap() as u32,
            killed: false,
        },
    }
}

fn rustix_pidfd(pid: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is involved, and the descriptor is new.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd as i32)
    }
}

#[test]
fn a_list_of_states_has_a_name_for_each() {
    let all = [
        Status::Creating,
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Stopped,
        Status::Removed,
    ];
    let names = [
        "being created",
        "created",
        "running",
        "paused",
        "stopped",
        "removed",
    ];
    assert_eq!(all.map(Status::name), names);
}

/// What each operation says of a container in each state: `true` where it is allowed.
#[tokio::test]
async fn operations_are_refused_in_the_wrong_states() {
    const STATES: [Status; 6] = [
        Status::Creating,
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Stopped,
        Status::Removed,
    ];
    let folder = tempfile::tempdir().unwrap();
    let resources = LinuxResources::default();
    for (operation, allowed, wanted) in [
        (
            "start",
            [false, true, false, false, false, false],
            "created",
        ),
        (
            "pause",
            [false, false, true, false, false, false],
            "running",
        ),
        (
            "resume",
            [false, false, false, true, false, false],
            "paused",
        ),
        (
            "update",
            [false, true, true, true, false, false],
            "created or running",
        ),
        (
            "remove",
            [false, true, false, false, true, false],
            "stopped",
        ),
        ("exec", [false, true, true, false, false, false], "running"),
    ] {
        for (state, allowed) in STATES.into_iter().zip(allowed) {
            let cgroup = Cgroup::within(&folder.path().join("none"));
            let container = created("state-test", &cgroup);
            *lock(&container.status) = state;
            let done = match operation {
                "start" => container.start().await,
                "pause" => container.pause().await,
                "resume" => container.resume().await,
                "update" => container.update(&resources).await,
                "remove" => container.remove().await,
                _ => container
                    .exec("e", b"{", &agent::Stdio::new())
                    .await
                    .map(drop),
            };
            let refused = matches!(
                &done,
                Err(Error::State { what, state: is, wanted: must })
                    if what == "container state-test" && *is == state.name() && *must == wanted
            );
            assert_eq!(refused, !allowed, "{operation} {state:?}: {done:?}");
        }
    }
}

#[tokio::test]
async fn the_end_of_the_init_stops_what_was_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    for (before, after) in [
        (Status::Running, Status::Stopped),
        (Status::Paused, Status::Stopped),
        (Status::Removed, Status::Removed),
    ] {
        let container = created("c", &Cgroup::within(folder.path()));
        *lock(&container.status) = before;
        container.init_ended();
        assert_eq!(*lock(&container.status), after);
    }
    assert!(!folder.path().join("cgroup.kill").exists());
    // The rest of a container whose pids are not its own is killed.
    let mut container = created("c", &Cgroup::within(folder.path()));
    Arc::get_mut(&mut container).unwrap().private_pid_namespace = false;
    container.init_ended();
    assert_eq!(fs::read(folder.path().join("cgroup.kill")).unwrap(), b"1");

    container.transition(Status::Running, Status::Paused);
    assert_eq!(
        *lock(&container.status),
        Status::Stopped,
        "it was not running"
    );
    container.transition(Status::Stopped, Status::Removed);
    assert_eq!(*lock(&container.status), Status::Removed);
}

#[tokio::test]
async fn a_failure_after_an_oom_kill_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let container = created("c", &Cgroup::within(folder.path()));
    let error = || Error::Missing("the reason");
    assert!(matches!(
        container.explain_oom(error()),
        Error::Missing("the reason")
    ));
    fs::write(folder.path().join("memory.events"), "oom 2\noom_kill 1\n").unwrap();
    let Error::OomKilled(reason) = container.explain_oom(error()) else {
        panic!("it was killed");
    };
    assert!(matches!(*reason, Error::Missing("the reason")));
}

#[tokio::test]
async fn execs_are_refused_found_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let container = created("c", &Cgroup::within(folder.path()));
    let exec = Arc::new(Process::new("c", "e", Connections::default()));
    lock(&container.execs).insert("e".into(), exec.clone());
    let json = br#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["id"]}"#;
    let silent = agent::Stdio {
        stdout: 77,
        ..Default::default()
    };
    let again = container.exec("e", json, &silent).await;
    assert!(matches!(again, Err(Error::ExecExists { .. })), "{again:?}");
    let bad = container.exec("../e", json, &silent).await;
    assert!(matches!(bad, Err(Error::InvalidValue { .. })), "{bad:?}");
    let late = container.exec("late", json, &silent).await;
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");

    let found = container.process("e").unwrap();
    assert_eq!(found.name(), "exec e of container c");
    assert_eq!(container.process("").unwrap().name(), "container c");
    for unknown in [
        container.process("late").map(drop),
        container.remove_exec("late"),
    ] {
        assert!(
            matches!(unknown, Err(Error::NoProcess { .. })),
            "{unknown:?}"
        );
    }
    exec.begin().unwrap();
    let busy = container.remove_exec("e");
    assert!(matches!(busy, Err(Error::State { .. })), "{busy:?}");
    exec.fail();
    container.remove_exec("e").unwrap();
    assert!(container.process("e").is_err());
}

#[allow(clippy::await_holding_lock)] // the test has a thread of its own
#[tokio::test]
async fn a_container_is_paused_signalled_and_removed() {
    let cgroup = test_support::require!(RealCgroup::new("container"));
    let container = created("c", &cgroup.0);
    let ended = Arc::downgrade(&container);
    let program = Program::run_then(&container.init, &container.oom, Some(&cgroup), move || {
        ended.upgrade().unwrap().init_ended();
    });
    *lock(&container.status) = Status::Running;
    let frozen = || {
        let events = fs::read_to_string(cgroup.1.join("cgroup.events")).unwrap();
        crate::cgroup::parse_flat(&events)["frozen"]
    };

    assert_eq!(container.processes().unwrap(), [program.pid as u32]);
    assert_eq!(container.init.pid(), Some(program.pid));
    container.pause().await.unwrap();
    assert_eq!((*lock(&container.status), frozen()), (Status::Paused, 1));
    container.resume().await.unwrap();
    assert_eq!((*lock(&container.status), frozen()), (Status::Running, 0));
    for bad in [0, 65, -1] {
        assert!(matches!(
            container.signal_all(bad),
            Err(Error::InvalidValue { .. })
        ));
        assert!(matches!(
            container.init.signal(bad),
            Err(Error::InvalidValue { .. })
        ));
    }
    container.signal_all(libc::SIGTERM).unwrap();
    let end = container.init.wait().await;
    assert_eq!((end.status, end.oom_killed), (143, false));
    assert_eq!(*lock(&container.status), Status::Stopped);
    assert!(container.init.is_over() && container.init.pid().is_none());
    let late = container.init.signal(libc::SIGTERM);
    assert!(matches!(late, Err(Error::Finished { .. })), "{late:?}");

    container.remove().await.unwrap();
    assert_eq!(*lock(&container.status), Status::Removed);
    assert!(!cgroup.1.exists());
}

#[allow(clippy::await_holding_lock)] // the test has a thread of its own
#[tokio::test]
async fn all_that_is_left_is_killed_and_removed_with_what_is_below() {
    let cgroup = test_support::require!(RealCgroup::new("tree"));
    let container = created("c", &cgroup.0);
    let program = Program::run(&container.init, &container.oom, Some(&cgroup));
    let below = cgroup.1.join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), program.pid.to_string()).unwrap();
    assert_eq!(container.processes().unwrap(), [program.pid as u32]);

    container.destroy().await.unwrap();

    assert_eq!(container.init.wait().await.status, 137);
    assert!(!cgroup.1.exists());
    // Once more does no harm.
    container.destroy().await.unwrap();
}

#[allow(clippy::await_holding_lock)] // the test has a thread of its own
#[tokio::test]
async fn an_end_is_told_with_its_code_and_whether_memory_was_the_reason() {
    // Kills of the cgroup before and after; whether it is an init; killed or not.
    for (exec, kill, kills, oom) in [
        ("", false, 0, false),
        ("", false, 1, true),
        ("e", false, 1, false),
        ("e", true, 1, true),
        ("e", true, 0, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::within(folder.path());
        let events = Arc::new(Events::new());
        let watch = OomWatch::idle("c", &cgroup, &events);
        let process = Arc::new(Process::new("c", exec, Connections::default()));
        let early = process.signal(libc::SIGTERM);
        assert!(matches!(
            early,
            Err(Error::State {
                state: "not started",
                ..
            })
        ));

        let mut program = Program::run(&process, &watch, None);
        assert!(!process.is_over());
        let again = process.begin().err();
        assert!(
            matches!(
                again,
                Some(Error::State {
                    state: "running",
                    ..
                })
            ),
            "{again:?}"
        );
        fs::write(
            folder.path().join("memory.events"),
            format!("oom_kill {kills}\n"),
        )
        .unwrap();
        match kill {
            true => process.signal(libc::SIGKILL).unwrap(),
            false => program.end(),
        }
        let end = process.wait().await;

        assert_eq!(end.status, if kill { 137 } else { 7 });
        assert_eq!(end.oom_killed, oom, "{exec:?} {kill} {kills}");
        assert_eq!(watch.kills(), kills);
    }
}
