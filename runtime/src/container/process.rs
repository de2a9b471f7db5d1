//! One process of a container, as the host sees it: its status, its pid proxy and its streams.
//! Its state is published; readers never wait.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::container::pid_proxy::PidProxy;
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::state::{Status, Step};
use crate::state_dir::record::ProcessRecord;
use crate::stdio::{Pending, ProcessIo, Stdio};
use crate::sync::lock;

/// The current state of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessState {
    /// Its container.
    pub id: String,
    /// Its exec id; `None` for the init.
    pub exec: Option<String>,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// Its pid on the host.
    pub pid: u32,
    /// Its status.
    pub status: Status,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// Whether it has a pty.
    pub terminal: bool,
    /// The path of its stdin; empty if none.
    pub stdin: PathBuf,
    /// The path of its stdout; empty if none.
    pub stdout: PathBuf,
    /// The path of its stderr; empty if none.
    pub stderr: PathBuf,
}

/// A process of a container. Each lock in it guards a single field and is held only briefly.
#[derive(Debug)]
pub(crate) struct Process {
    container: String,
    exec: Option<String>,
    terminal: bool,
    paths: [PathBuf; 3],
    now: watch::Sender<ProcessRecord>,
    /// How it ended, from when that is known until it is published in `now`.
    ending: Mutex<Option<Exit>>,
    stdio: Mutex<Option<Stdio>>,
    /// The specification and the streams of an exec session until its start.
    planned: Mutex<Option<(oci_spec::runtime::Process, Pending)>>,
    /// The terminal size of an exec session, if set, until its start is answered.
    initial_size: Mutex<Option<Option<(u32, u32)>>>,
    pid_proxy: Mutex<Option<PidProxy>>,
}

impl Process {
    pub(crate) fn new(container: &str, exec: Option<&str>, io: &ProcessIo) -> Self {
        let path =
            |end: &crate::stdio::Endpoint| end.path().map(ToOwned::to_owned).unwrap_or_default();
        Self {
            container: container.to_owned(),
            exec: exec.map(ToOwned::to_owned),
            terminal: io.terminal,
            paths: [path(&io.stdin), path(&io.stdout), path(&io.stderr)],
            now: watch::Sender::new(ProcessRecord {
                status: Status::Creating,
                pid: 0,
                exit: None,
            }),
            ending: Mutex::new(None),
            stdio: Mutex::new(None),
            planned: Mutex::new(None),
            initial_size: Mutex::new(exec.map(|_| None)),
            pid_proxy: Mutex::new(None),
        }
    }

    pub(crate) fn terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn exec(&self) -> Option<&str> {
        self.exec.as_deref()
    }

    pub(crate) fn now(&self) -> ProcessRecord {
        *self.now.borrow()
    }

    pub(crate) fn status(&self) -> Status {
        self.now().status
    }

    pub(crate) fn pid(&self) -> u32 {
        self.now().pid
    }

    pub(crate) fn state(&self, bundle: PathBuf) -> ProcessState {
        let ProcessRecord { status, pid, exit } = self.now();
        let [stdin, stdout, stderr] = self.paths.clone();
        ProcessState {
            id: self.container.clone(),
            exec: self.exec.clone(),
            bundle,
            pid,
            status,
            exit,
            terminal: self.terminal,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Takes a step of the state table, or returns why the step is not allowed.
    pub(crate) fn step(&self, step: Step, operation: &'static str) -> Result<()> {
        let mut refused = None;
        self.now
            .send_if_modified(|now| match now.status.after(step) {
                Some(next) => {
                    now.status = next;
                    true
                }
                None => {
                    refused = Some(now.status);
                    false
                }
            });
        match refused {
            None => Ok(()),
            Some(status) => Err(self.wrong_state(status, operation)),
        }
    }

    pub(crate) fn wrong_state(&self, status: Status, operation: &'static str) -> Error {
        let (what, id) = match &self.exec {
            None => ("container", &self.container),
            Some(exec) => ("exec", exec),
        };
        Error::WrongState {
            what,
            id: id.clone(),
            operation,
            state: status.to_string(),
        }
    }

    /// Fixes how the process ended, for the state on disk. The first call decides; later
    /// calls return the same exit.
    pub(crate) fn decide_end(&self, status: u32) -> Exit {
        *lock(&self.ending).get_or_insert_with(|| Exit {
            status,
            at: SystemTime::now(),
        })
    }

    /// Publishes the end and sends its event under one lock: a receiver of the event sees the
    /// new state, and a reader of the state has not missed an earlier event. `publish` must not
    /// ask this process for its status or pid: they are locked.
    pub(crate) fn end(&self, status: u32, publish: impl FnOnce(Exit)) {
        let exit = self.decide_end(status);
        self.now.send_modify(|now| {
            now.exit = Some(exit);
            now.status = Status::Stopped;
            publish(exit);
        });
    }

    /// The process's part of the state on disk.
    pub(crate) fn record(&self) -> ProcessRecord {
        let mut record = self.now();
        if let Some(exit) = *lock(&self.ending) {
            record.exit = Some(exit);
            record.status = Status::Stopped;
        }
        record
    }

    /// Waits for the end; returns at once after it.
    pub(crate) async fn ended(&self) -> Result<Exit> {
        let mut now = self.now.subscribe();
        let exit = now
            .wait_for(|n| n.exit.is_some())
            .await
            .ok()
            .and_then(|n| n.exit);
        exit.ok_or_else(|| Error::not_found("process of container", self.container.as_str()))
    }

    /// Waits until a start in progress was answered, so that the start event precedes the exit
    /// event.
    pub(crate) async fn start_answered(&self) {
        let mut now = self.now.subscribe();
        let _ = now.wait_for(|n| n.status != Status::Starting).await;
    }

    pub(crate) fn set_pid_proxy(&self, pid_proxy: PidProxy) {
        self.now.send_modify(|now| now.pid = pid_proxy.pid());
        *lock(&self.pid_proxy) = Some(pid_proxy);
    }

    /// Removes the pid proxy; its pid is free when this returns.
    pub(crate) fn drop_pid_proxy(&self) {
        let pid_proxy = lock(&self.pid_proxy).take();
        drop(pid_proxy);
    }

    /// Whether it has a pid proxy: one that is being removed does not count.
    pub(crate) fn has_pid_proxy(&self) -> bool {
        lock(&self.pid_proxy).is_some()
    }

    pub(crate) fn set_stdio(&self, stdio: Stdio) {
        *lock(&self.stdio) = Some(stdio);
    }

    /// Keeps the specification and the streams of an exec session until its start.
    pub(crate) fn plan(&self, process: oci_spec::runtime::Process, pending: Pending) {
        *lock(&self.planned) = Some((process, pending));
    }

    /// Takes the specification and the streams of an exec session.
    pub(crate) fn take_plan(&self) -> Option<(oci_spec::runtime::Process, Pending)> {
        lock(&self.planned).take()
    }

    /// Keeps the size of a terminal for the start of its process; returns false once the start
    /// is answered.
    pub(crate) fn keep_size(&self, size: (u32, u32)) -> bool {
        let mut kept = lock(&self.initial_size);
        kept.as_mut().map(|kept| *kept = Some(size)).is_some()
    }

    /// The kept size.
    pub(crate) fn kept_size(&self) -> Option<(u32, u32)> {
        (*lock(&self.initial_size)).flatten()
    }

    /// Takes the kept size; later sizes are not kept.
    pub(crate) fn take_size(&self) -> Option<(u32, u32)> {
        lock(&self.initial_size).take().flatten()
    }

    /// Calls `look` with the streams, if they are connected.
    pub(crate) fn with_stdio<T>(&self, look: impl FnOnce(&mut Stdio) -> T) -> Option<T> {
        lock(&self.stdio).as_mut().map(look)
    }

    pub(crate) fn drop_stdio(&self) {
        let stdio = lock(&self.stdio).take();
        drop(stdio);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    use crate::stdio::Endpoint;

    fn process(exec: Option<&str>) -> Process {
        let io = ProcessIo {
            stdin: Endpoint::Path("/in".into()),
            stdout: Endpoint::Path("/out".into()),
            stderr: Endpoint::None,
            terminal: true,
            descriptors: Vec::new(),
        };
        Process::new("c", exec, &io)
    }

    #[test]
    fn its_state_is_what_it_was_made_of_and_how_it_stands() {
        let new = process(Some("x"));
        let state = ProcessState {
            id: "c".into(),
            exec: Some("x".into()),
            bundle: "/bundle".into(),
            pid: 0,
            status: Status::Creating,
            exit: None,
            terminal: true,
            stdin: "/in".into(),
            stdout: "/out".into(),
            stderr: "".into(),
        };
        assert_eq!(new.state("/bundle".into()), state);
        assert!(new.terminal() && new.exec() == Some("x"));
        assert!(!Process::new("c", None, &ProcessIo::default()).terminal());
        assert_eq!(process(None).exec(), None);
    }

    #[test]
    fn a_step_that_its_state_does_not_allow_is_an_error_that_names_it() {
        for (exec, expected) in [(None, ("container", "c")), (Some("x"), ("exec", "x"))] {
            let process = process(exec);
            process.step(Step::Built, "create").unwrap();
            assert_eq!(process.status(), Status::Created);
            match process.step(Step::Pause, "pause").unwrap_err() {
                Error::WrongState {
                    what,
                    id,
                    operation,
                    state,
                } => {
                    assert_eq!((what, &*id), expected);
                    assert_eq!((operation, &*state), ("pause", "created"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(process.status(), Status::Created);
        }
    }

    #[tokio::test]
    async fn the_first_end_counts_and_is_saved_before_it_is_published() {
        let process = process(None);
        let first = process.decide_end(3);
        assert_eq!(first.status, 3);
        assert_eq!(process.decide_end(4), first);
        let record = process.record();
        assert_eq!((record.status, record.exit), (Status::Stopped, Some(first)));
        assert_eq!(process.now().exit, None);
        let mut published = None;
        process.end(5, |exit| published = Some(exit));
        assert_eq!(published, Some(first));
        assert_eq!((process.status(), process.now()), (Status::Stopped, record));
        assert_eq!(process.ended().await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_start_is_waited_for_until_it_is_answered() {
        let process = process(None);
        process.start_answered().await;
        process.step(Step::Built, "create").unwrap();
        process.step(Step::Start, "start").unwrap();
        let short = Duration::from_millis(5);
        let waiting = tokio::time::timeout(short, process.start_answered());
        assert!(waiting.await.is_err());
        process.step(Step::Started, "start").unwrap();
        process.start_answered().await;
    }

    #[test]
    fn the_size_of_a_terminal_is_kept_until_its_start_is_answered() {
        let exec = process(Some("x"));
        assert_eq!(exec.kept_size(), None);
        assert!(exec.keep_size((5, 6)) && exec.keep_size((7, 8)));
        assert_eq!(exec.kept_size(), Some((7, 8)));
        assert_eq!(exec.take_size(), Some((7, 8)));
        assert!(!exec.keep_size((9, 9)));
        assert_eq!((exec.kept_size(), exec.take_size()), (None, None));
        // An init has no size before its start: it is in its specification.
        assert!(!process(None).keep_size((5, 6)));
    }
}
