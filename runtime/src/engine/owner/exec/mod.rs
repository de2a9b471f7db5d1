//! Further processes of containers: one state machine, for pods of the engine and for
//! those of containerd.
//!
//! ```text
//! create ─▶ configured ─ start ─▶ running ─▶ exited, until it makes room for another
//!    run ───────────────────────────▲
//! ```
//! [`ExecHost`] is what differs between the two: where sessions are kept, and the receiver
//! of their events.

mod sessions;
mod start;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;

pub use self::sessions::Sessions;
use self::sessions::forget_oldest;
pub use self::start::{Connected, Starter, Template};
use self::start::{descriptors, process_of};
use super::{Owner, Tracked};
use crate::engine::journal::Event;
use crate::engine::owner::build::root_layers;
use crate::engine::owner::streams::ProcessStreams;
use crate::engine::records::exec::{ExecRequest, ExecSession, PreservedFd};
use crate::engine::status::ContainerStatus;
use crate::engine::users;
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::pod::Pod;
use crate::pod::lifecycle::KILLED;
use crate::state_dir::id::new_id;
use crate::stdio::descriptor;
use crate::sync::lock;

/// The exit code of a process that nobody knows the end of.
const UNKNOWN: u32 = 125;

const RUN: &str = "run a process in";

/// A pod in whose containers further processes run, and what keeps their sessions.
pub trait ExecHost: std::fmt::Debug + Send + Sync + 'static {
    /// What the ids of its processes begin with.
    const PREFIX: &'static str;

    /// The VM, for an operation.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run.
    fn vm(&self, operation: &'static str) -> Result<Arc<Pod>>;

    /// What a further process has from its container.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless the container runs.
    fn template(&self, container: &str) -> Result<Template>;

    /// Changes the sessions of a container; they are written down when this returns.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container; that of writing.
    fn change_sessions<T>(
        &self,
        container: &str,
        change: impl FnOnce(&mut Sessions) -> T,
    ) -> Result<T>;

    /// Keeps the streams of a process until it has ended, and then forgets them.
    fn hold(&self, container: &str, exec: &str, streams: Option<Arc<ProcessStreams>>);

    /// Reports an event of a process.
    fn append(&self, container: &str, event: impl FnOnce(Event) -> Event);

    /// A process runs now: `ended` of this module must be called when it has ended.
    fn follow(self: &Arc<Self>, pod: Arc<Pod>, container: &str, exec: &str);

    /// How a session ends, known even if it is removed as it does.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn end_of(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
    ) -> Result<BoxFuture<'static, Result<Exit>>>;
}

/// Records a process in a container that runs, to be started later. Returns its id.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::WrongState`] unless the container runs;
/// [`Error::User`] for an unknown user; [`Error::NoCommand`]; [`Error::Descriptor`].
pub fn create<H: ExecHost>(host: &H, container: &str, request: ExecRequest) -> Result<String> {
    let template = host.template(container)?;
    insert(
        host,
        container,
        request,
        &template,
        ContainerStatus::Configured,
    )
    .map(|(id, _)| id)
}

/// Starts a recorded process.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::WrongState`] if it was started before;
/// [`Error::Descriptor`] unless there is an end for each descriptor;
/// [`Error::Command`] for a command that cannot be run.
pub async fn start<H: ExecHost>(
    host: &Arc<H>,
    container: &str,
    exec: &str,
    starter: Starter,
) -> Result<Connected> {
    let template = host.template(container)?;
    let claimed = host.change_sessions(container, |sessions| {
        let session = sessions::find(sessions, exec)?;
        if session.status != ContainerStatus::Configured {
            return Err(wrong_state(exec, "start", session.status));
        }
        session.status = ContainerStatus::Running;
        Ok(session.clone())
    });
    begin(host, container, exec, claimed??, &template, starter).await
}

/// Records a process and starts it. Returns its id, too.
///
/// # Errors
/// As [`create`] and [`start`].
pub async fn run<H: ExecHost>(
    host: &Arc<H>,
    container: &str,
    request: ExecRequest,
    starter: Starter,
) -> Result<(String, Connected)> {
    let template = host.template(container)?;
    let status = ContainerStatus::Running;
    let (id, session) = insert(&**host, container, request, &template, status)?;
    let connected = begin(host, container, &id, session, &template, starter).await?;
    Ok((id, connected))
}

fn insert<H: ExecHost>(
    host: &H,
    container: &str,
    mut request: ExecRequest,
    template: &Template,
    status: ContainerStatus,
) -> Result<(String, ExecSession)> {
    descriptor::check(request.preserve_fds.iter().map(|fd| fd.number))?;
    if request.command.is_empty() {
        return Err(Error::NoCommand {
            what: "exec in container",
            id: container.to_owned(),
        });
    }
    if let Some(user) = &request.user {
        users::look_up(&template.layers, user)?;
    }
    request.complete(&template.process);
    let id = format!("{}{}", H::PREFIX, &new_id()[..12]);
    let session = ExecSession::new(request, status);
    host.change_sessions(container, |sessions| {
        forget_oldest(sessions, SystemTime::now());
        sessions.insert(id.clone(), session.clone());
    })?;
    Ok((id, session))
}

/// Starts a process whose session says that it runs. Without success there is no session.
async fn begin<H: ExecHost>(
    host: &Arc<H>,
    container: &str,
    exec: &str,
    session: ExecSession,
    template: &Template,
    starter: Starter,
) -> Result<Connected> {
    let mut reported = false;
    let started = async {
        let exit = host.end_of(container, exec)?;
        let pod = host.vm(RUN)?;
        let process = starter.begin(process_of(&session.request, template)?)?;
        let terminal = session.request.terminal;
        let (mut io, streams) = ProcessStreams::new(terminal, starter.stdin, None);
        io.descriptors = descriptors(exec, &session.request.preserve_fds, starter.ends)?;
        let output = streams.listen();
        host.hold(container, exec, Some(streams.clone()));
        pod.add_exec(container, exec, process, io).await?;
        // Before what comes of it.
        reported = true;
        host.append(container, |event| {
            let event = event.action("exec").with("exec", exec);
            event.with("command", session.request.command.join(" "))
        });
        let pid = pod.start_exec(container, exec).await?;
        host.follow(pod, container, exec);
        host.change_sessions(container, |sessions| {
            if let Some(session) = sessions.get_mut(exec).filter(|s| s.status.is_live()) {
                session.pid = pid;
            }
        })?;
        Ok(Connected {
            streams,
            output,
            exit,
        })
    };
    let error = match started.await {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    if let Ok(pod) = host.vm(RUN) {
        let _ = pod.delete(container, Some(exec)).await;
    }
    host.hold(container, exec, None);
    host.change_sessions(container, |sessions| sessions.remove(exec))?;
    if reported {
        let code = match error {
            Error::Command { exit_code, .. } => exit_code.into(),
            _ => UNKNOWN,
        };
        append_end(&**host, container, exec, code);
    }
    Err(error)
}

/// A process has ended in the VM.
pub(crate) async fn ended<H: ExecHost>(
    host: &H,
    pod: &Arc<Pod>,
    container: &str,
    exec: &str,
    exit: Exit,
) {
    if let Err(e) = pod.delete(container, Some(exec)).await {
        ::log::debug!("Exec {exec} of container {container}: {e}");
    }
    host.hold(container, exec, None);
    let changed = host.change_sessions(container, |sessions| {
        if let Some(session) = sessions.get_mut(exec) {
            session.status = ContainerStatus::Exited;
            session.exit_code = Some(exit.status);
            session.finished = Some(exit.at);
            session.pid = 0;
        }
    });
    match changed {
        Ok(()) => {}
        // Its container was removed.
        Err(Error::NotFound { .. }) => return,
        Err(e) => ::log::error!("Exec {exec} of container {container}: {e}"),
    }
    append_end(host, container, exec, exit.status);
}

/// Sends a signal to a process that runs.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::WrongState`] unless it runs; [`Error::InvalidValue`] for a
/// number that is no signal.
pub async fn signal<H: ExecHost>(host: &H, container: &str, exec: &str, signal: u32) -> Result<()> {
    if !(1..=64).contains(&signal) {
        return Err(Error::invalid("signal", signal, "1 to 64"));
    }
    let found = host.change_sessions(container, |sessions| {
        sessions::find(sessions, exec).map(|session| session.status)
    });
    let status = found??;
    if !status.is_running() {
        return Err(wrong_state(exec, "signal", status));
    }
    let pod = host.vm("signal a process in")?;
    pod.kill(container, Some(exec), signal, false).await
}

/// Removes the session of a process; one that runs is killed first with `force`.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::WrongState`] while it runs.
pub async fn remove<H: ExecHost>(
    host: &Arc<H>,
    container: &str,
    exec: &str,
    force: bool,
) -> Result<()> {
    let found = host.change_sessions(container, |sessions| {
        let session = sessions::find(sessions, exec)?.clone();
        if !session.status.is_live() {
            sessions.remove(exec);
        }
        Ok::<_, Error>(session)
    });
    let session = found??;
    if !session.status.is_live() {
        return Ok(());
    }
    if !force {
        return Err(wrong_state(exec, "remove", session.status));
    }
    let end = host.end_of(container, exec)?;
    let kill = libc::SIGKILL as u32;
    let pod = host.vm("kill a process in")?;
    pod.kill(container, Some(exec), kill, false).await?;
    let end = tokio::time::timeout(KILLED, end).await;
    end.map_err(|_| Error::NotEnded {
        what: format!("Exec {exec} of container {container}"),
        seconds: KILLED.as_secs(),
    })??;
    host.change_sessions(container, |sessions| sessions.remove(exec))
        .map(drop)
}

fn append_end<H: ExecHost>(host: &H, container: &str, exec: &str, code: u32) {
    host.append(container, |event| {
        let event = event.action("exec_died").with("exec", exec);
        event.with("exit_code", code)
    });
}

fn wrong_state(exec: &str, operation: &'static str, status: ContainerStatus) -> Error {
    Error::WrongState {
        what: "exec",
        id: exec.to_owned(),
        operation,
        state: status.to_string(),
    }
}

impl ExecHost for Owner {
    const PREFIX: &'static str = "";

    fn vm(&self, operation: &'static str) -> Result<Arc<Pod>> {
        self.live_or(operation)
    }

    fn template(&self, container: &str) -> Result<Template> {
        let container = self.tracked(container)?;
        if container.now().status != ContainerStatus::Running {
            return Err(self.wrong_state(&container, RUN));
        }
        let definition = &container.definition;
        Ok(Template {
            process: definition.spec.process().clone().unwrap_or_default(),
            user: definition.user.clone(),
            layers: root_layers(&self.paths, definition)?,
        })
    }

    fn change_sessions<T>(
        &self,
        container: &str,
        change: impl FnOnce(&mut Sessions) -> T,
    ) -> Result<T> {
        let container = self.tracked(container)?;
        self.change(&container, |state| change(&mut state.execs))
    }

    fn hold(&self, container: &str, exec: &str, streams: Option<Arc<ProcessStreams>>) {
        if let Ok(container) = self.tracked(container) {
            let mut execs = lock(&container.execs);
            match streams {
                Some(streams) => execs.insert(exec.to_owned(), streams),
                None => execs.remove(exec),
            };
        }
    }

    fn append(&self, container: &str, event: impl FnOnce(Event) -> Event) {
        if let Ok(container) = self.tracked(container) {
            self.append_container_event(&container, event);
        }
    }

    // The VM's events say so, in their order.
    fn follow(self: &Arc<Self>, _: Arc<Pod>, _: &str, _: &str) {}

    fn end_of(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
    ) -> Result<BoxFuture<'static, Result<Exit>>> {
        Ok(Box::pin(self.watch_end(container, Some(exec))?))
    }
}

impl Owner {
    /// Gives the init of a container descriptors of the client that starts it,
    /// when it is built next.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it is built;
    /// [`Error::Descriptor`] unless there is an end for each descriptor.
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

    /// The streams of a container's init, while it is in the VM.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it does not run.
    pub fn streams(&self, name: &str) -> Result<Arc<ProcessStreams>> {
        let container: Arc<Tracked> = self.tracked(name)?;
        let found = lock(&container.streams).clone();
        found.ok_or_else(|| self.wrong_state(&container, "attach to"))
    }
}
