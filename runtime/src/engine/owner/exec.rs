//! Further processes of a container: sessions that are recorded when they are created, and run
//! when a client starts them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci_spec::runtime::Process;
use tokio::sync::mpsc;

use super::build::root_layers;
use super::exec_request::{ExecRequest, Starter, descriptors, process_of};
use super::{Owner, Tracked};
use crate::engine::owner::streams::{Piece, ProcessStreams};
use crate::engine::records::record::{ExecSession, PreservedFd};
use crate::engine::status::ContainerStatus;
use crate::engine::users;
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::pod::Pod;
use crate::pod::lifecycle::KILLED;
use crate::state_dir::id::check_id;
use crate::stdio::descriptor;
use crate::sync::lock;

/// The exit code of a process whose end is not known.
const UNKNOWN: u8 = 125;

/// The largest number of sessions of a container: ended ones are kept for `inspect`.
const SESSIONS: usize = 256;

/// How long a session is kept for its start at least. Its client starts it at once, unless it
/// dies before.
const STARTED_WITHIN: Duration = Duration::from_secs(600);

impl Owner {
    /// Records a further process of a running container. Returns its id.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless the container runs; [`Error::AlreadyExists`];
    /// [`Error::User`] for an unknown user.
    pub fn create_exec(&self, name: &str, request: ExecRequest) -> Result<String> {
        let container = self.tracked(name)?;
        let id = match request.id.as_str() {
            "" => crate::state_dir::id::new_id()[..12].to_owned(),
            given => given.to_owned(),
        };
        check_id("exec id", &id)?;
        descriptor::check(request.preserve_fds.iter().map(|fd| fd.number))?;
        if request.command.is_empty() {
            return Err(Error::NoCommand {
                what: "exec in",
                id: name.to_owned(),
            });
        }
        if container.now().status != ContainerStatus::Running {
            return Err(self.wrong_state(&container, "run a process in"));
        }
        if container.now().execs.contains_key(&id) {
            return Err(Error::AlreadyExists { what: "exec", id });
        }
        if let Some(user) = &request.user {
            users::look_up(&root_layers(&self.paths, &container.definition)?, user)?;
        }
        let process = container.definition.spec.process().clone();
        let session = request.session(&process.unwrap_or_default());
        self.change(&container, |state| {
            forget_oldest(&mut state.execs, SystemTime::now());
            state.execs.insert(id.clone(), session);
        })?;
        Ok(id)
    }

    /// Runs a recorded process. Returns its streams, and its output from the first byte on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it was started before; [`Error::Descriptor`]
    /// unless there is an end for each descriptor; [`Error::Command`] for a command that cannot
    /// be run.
    pub async fn start_exec(
        self: &Arc<Self>,
        name: &str,
        exec: &str,
        starter: Starter,
    ) -> Result<(Arc<ProcessStreams>, mpsc::Receiver<Piece>)> {
        let container = self.tracked(name)?;
        let session = session_of(&container, exec)?;
        if session.status != ContainerStatus::Configured {
            return Err(Error::WrongState {
                what: "exec",
                id: exec.to_owned(),
                operation: "start",
                state: session.status.to_string(),
            });
        }
        let pod = self.live_or("run a process in")?;
        let process = starter.begin(self.exec_process(&container, &session)?)?;
        let (mut io, streams) = ProcessStreams::new(session.terminal, starter.stdin, None);
        io.descriptors = descriptors(exec, &session.preserve_fds, starter.ends)?;
        let output = streams.listen();
        lock(&container.execs).insert(exec.to_owned(), streams.clone());
        let started = async {
            pod.add_exec(name, exec, process, io).await?;
            self.change_exec(&container, exec, |session| {
                session.status = ContainerStatus::Running;
            })?;
            self.append_container_event(&container, |event| {
                let event = event.action("exec").with("exec", exec);
                event.with("command", session.command.join(" "))
            });
            pod.start_exec(name, exec).await
        };
        match started.await {
            Ok(pid) => {
                self.change_exec(&container, exec, |session| {
                    if session.status.is_live() {
                        session.pid = pid;
                    }
                })?;
                Ok((streams, output))
            }
            Err(e) => {
                let _ = pod.delete(name, Some(exec)).await;
                lock(&container.execs).remove(exec);
                let live = session_of(&container, exec).is_ok_and(|s| s.status.is_live());
                self.change(&container, |state| {
                    state.execs.remove(exec);
                })?;
                if live {
                    let code = match e {
                        Error::Command { exit_code, .. } => exit_code,
                        _ => UNKNOWN,
                    };
                    self.record_exec_end(&container, exec, code.into());
                }
                Err(e)
            }
        }
    }

    /// Stores descriptors of the client for a container's init, which gets them when it is
    /// built next.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it is built; [`Error::Descriptor`] unless
    /// there is an end for each descriptor.
    pub fn pass_fds(
        &self,
        name: &str,
        wanted: &[PreservedFd],
        ends: Vec<UnixStream>,
    ) -> Result<()> {
        let container = self.tracked(name)?;
        let passed_fds = descriptors(name, wanted, ends)?;
        descriptor::check(passed_fds.iter().map(|descriptor| descriptor.number))?;
        if !passed_fds.is_empty() && container.now().status.is_live() {
            return Err(self.wrong_state(&container, "pass descriptors on to"));
        }
        *lock(&container.passed_fds) = passed_fds;
        Ok(())
    }

    pub(super) async fn exec_ended(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        name: &str,
        exec: &str,
        exit: Exit,
    ) {
        let Ok(container) = self.tracked(name) else {
            return;
        };
        if let Err(e) = pod.delete(name, Some(exec)).await {
            ::log::debug!("Exec {exec} of container {name}: {e}");
        }
        lock(&container.execs).remove(exec);
        let changed = self.change_exec(&container, exec, |session| {
            session.status = ContainerStatus::Exited;
            session.exit_code = Some(exit.status);
            session.finished = Some(exit.at);
            session.pid = 0;
        });
        changed.unwrap_or_else(|e| ::log::error!("Exec {exec} of container {name}: {e}"));
        self.record_exec_end(&container, exec, exit.status);
    }

    fn record_exec_end(&self, container: &Tracked, exec: &str, code: u32) {
        self.append_container_event(container, |event| {
            let event = event.action("exec_died").with("exec", exec);
            event.with("exit_code", code)
        });
    }

    /// Removes a recorded process; a running one is killed first with `force`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] while it runs.
    pub async fn remove_exec(self: &Arc<Self>, name: &str, exec: &str, force: bool) -> Result<()> {
        let container = self.tracked(name)?;
        let session = session_of(&container, exec)?;
        if session.status.is_live() {
            if !force {
                return Err(Error::WrongState {
                    what: "exec",
                    id: exec.to_owned(),
                    operation: "remove",
                    state: session.status.to_string(),
                });
            }
            let pod = self.live_or("kill a process in")?;
            pod.kill(name, Some(exec), libc::SIGKILL as u32, false)
                .await?;
            let ended = tokio::time::timeout(KILLED, self.wait(name, Some(exec))).await;
            ended.map_err(|_| Error::NotEnded {
                what: format!("Exec {exec} of container {name}"),
                seconds: KILLED.as_secs(),
            })??;
        }
        self.change(&container, |state| {
            state.execs.remove(exec);
        })
    }

    fn change_exec(
        &self,
        container: &Tracked,
        exec: &str,
        change: impl FnOnce(&mut ExecSession),
    ) -> Result<()> {
        self.change(container, |state| {
            if let Some(session) = state.execs.get_mut(exec) {
                change(session);
            }
        })
    }

    fn exec_process(&self, container: &Tracked, session: &ExecSession) -> Result<Process> {
        let process = container.definition.spec.process().clone();
        let user = session.user.as_ref().or(container.definition.user.as_ref());
        let layers = root_layers(&self.paths, &container.definition)?;
        process_of(session, process.unwrap_or_default(), user, &layers)
    }

    /// The streams of a container's init or of a further process, while it is in the VM.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it does not run.
    pub fn streams(&self, name: &str, exec: Option<&str>) -> Result<Arc<ProcessStreams>> {
        let container = self.tracked(name)?;
        let found = match exec {
            None => lock(&container.streams).clone(),
            Some(exec) => lock(&container.execs).get(exec).cloned(),
        };
        found.ok_or_else(|| self.wrong_state(&container, "attach to"))
    }

    /// Sets the size of a process's pty.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the VM's.
    pub async fn resize(&self, name: &str, exec: Option<&str>, size: (u32, u32)) -> Result<()> {
        self.tracked(name)?;
        let pod = self.live_or("resize the terminal of")?;
        pod.resize_pty(name, exec, size.0, size.1).await
    }
}

fn session_of(container: &Tracked, exec: &str) -> Result<ExecSession> {
    let session = container.now().execs.get(exec).cloned();
    session.ok_or_else(|| Error::not_found("exec", exec))
}

/// Makes room for one more session: removes the oldest one that has ended, or that was never
/// started.
fn forget_oldest(execs: &mut BTreeMap<String, ExecSession>, now: SystemTime) {
    let is_over = |session: &ExecSession| match session.status {
        ContainerStatus::Configured => now
            .duration_since(session.created)
            .is_ok_and(|age| age > STARTED_WITHIN),
        status => !status.is_live(),
    };
    while execs.len() >= SESSIONS {
        let over = execs.iter().filter(|(_, session)| is_over(session));
        let oldest = over.min_by_key(|(_, session)| session.created);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return;
        };
        execs.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_sessions_make_room_and_running_ones_stay() {
        let session = |status, n| ExecSession {
            command: Vec::new(),
            terminal: false,
            env: Vec::new(),
            user: None,
            cwd: "/".into(),
            privileged: false,
            preserve_fds: Vec::new(),
            status,
            pid: 0,
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(n),
            exit_code: None,
            finished: None,
        };
        let mut execs = BTreeMap::new();
        for n in 0..SESSIONS as u64 {
            let status = if n == 0 {
                ContainerStatus::Running
            } else {
                ContainerStatus::Exited
            };
            execs.insert(format!("{n:04}"), session(status, n));
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(SESSIONS as u64);
        forget_oldest(&mut execs, now);
        assert!(execs.contains_key("0000") && !execs.contains_key("0001"));
        assert_eq!(execs.len(), SESSIONS - 1);

        // Sessions that are about to be started do not prevent this, however many there are.
        for session in execs.values_mut() {
            session.status = ContainerStatus::Configured;
        }
        execs.insert("0001".into(), session(ContainerStatus::Running, 1));
        forget_oldest(&mut execs, now);
        assert_eq!(execs.len(), SESSIONS);
        forget_oldest(&mut execs, now + STARTED_WITHIN);
        assert!(execs.len() < SESSIONS && execs.contains_key("0001"));
    }
}
