//! Looking into a pod that is not the engine's: its containers are measured
//! and entered, and nothing else of them is changed. Their front door is told
//! of no process that is run here.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::Process;
use protos::management as api;
use tokio::sync::{mpsc, watch};

use crate::container::guest_spec::load_spec;
use crate::engine::owner::exec_request;
use crate::engine::owner::measure;
use crate::engine::owner::streams::{Piece, ProcessStreams};
use crate::engine::owner::{ExecRequest, Starter};
use crate::engine::records::record::ExecSession;
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::pod::Pod;
use crate::state::Status;
use crate::sync::lock;

/// What the ids of processes that visitors run begin with.
const PREFIX: &str = "rust-kata.";

/// As many processes visitors can have at a time.
const SESSIONS: usize = 256;

/// For the output of a process that has ended to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether an exec of this id is a visitor's.
pub fn is_visit(exec: &str) -> bool {
    exec.starts_with(PREFIX)
}

/// What visitors do in a pod.
#[derive(Debug)]
pub struct Visits {
    pod: Arc<Pod>,
    /// By exec id, until they have ended.
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
}

/// A process that a visitor runs, or is about to.
#[derive(Debug)]
struct Session {
    container: String,
    exec: ExecSession,
    process: Process,
    started: Mutex<bool>,
    exit: watch::Sender<Option<Exit>>,
}

impl Visits {
    /// To a pod that this process owns.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        Arc::new(Self {
            pod,
            sessions: Mutex::default(),
        })
    }

    /// The pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Records a process to run in a container. Answers its id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless the container runs;
    /// [`Error::Invalid`] for an unknown user.
    pub fn create_exec(&self, container: &str, request: ExecRequest) -> Result<String> {
        let state = self.pod.state(container, None)?;
        let refused = |state: String| Error::WrongState {
            what: "container",
            id: container.to_owned(),
            operation: "run a process in",
            state,
        };
        if state.status != Status::Running {
            return Err(refused(state.status.to_string()));
        }
        if request.command.is_empty() {
            return Err(Error::Invalid(format!(
                "Exec in {container}: there is no command to run"
            )));
        }
        crate::stdio::descriptor::check(request.preserve_fds.iter().map(|fd| fd.number))?;
        let base = load_spec(&state.bundle)?.process().clone();
        let base = base.unwrap_or_default();
        let session = request.session(&base);
        let layers = [self.pod.share.rootfs(container)];
        let process = exec_request::process_of(&session, base, session.user.as_ref(), &layers)?;
        let id = format!("{PREFIX}{}", &crate::state_dir::id::new_id()[..12]);
        let mut sessions = lock(&self.sessions);
        // A client that went away before its process was started.
        let stale = sessions
            .iter()
            .find(|(_, session)| !*lock(&session.started))
            .map(|(id, _)| id.clone());
        if let Some(stale) = stale.filter(|_| sessions.len() >= SESSIONS) {
            sessions.remove(&stale);
        }
        if sessions.len() >= SESSIONS {
            return Err(refused(format!("running {SESSIONS} of them already")));
        }
        let session = Session {
            container: container.to_owned(),
            exec: session,
            process,
            started: Mutex::new(false),
            exit: watch::Sender::new(None),
        };
        sessions.insert(id.clone(), Arc::new(session));
        Ok(id)
    }

    /// Runs a recorded process, as [`start_exec`](crate::engine::owner::Owner::start_exec)
    /// of an owner does.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it was started before;
    /// [`Error::Invalid`] unless there is an end for each descriptor;
    /// [`Error::Command`] for a command that cannot be run.
    pub async fn start_exec(
        self: &Arc<Self>,
        exec: &str,
        starter: Starter,
    ) -> Result<(Arc<ProcessStreams>, mpsc::Receiver<Piece>)> {
        let session = self.session(exec)?;
        let process = starter.begin(session.process.clone())?;
        let Starter { stdin, ends, .. } = starter;
        let descriptors = exec_request::descriptors(exec, &session.exec.preserve_fds, ends)?;
        if std::mem::replace(&mut *lock(&session.started), true) {
            return Err(Error::WrongState {
                what: "exec",
                id: exec.to_owned(),
                operation: "start",
                state: "started already".into(),
            });
        }
        let (mut io, streams) = ProcessStreams::new(session.exec.terminal, stdin, None);
        io.descriptors = descriptors;
        let output = streams.listen();
        let container = &session.container;
        let started = async {
            self.pod.add_exec(container, exec, process, io).await?;
            self.pod.start_exec(container, exec).await
        };
        if let Err(e) = started.await {
            let _ = self.pod.delete(container, Some(exec)).await;
            lock(&self.sessions).remove(exec);
            return Err(e);
        }
        tokio::spawn(
            self.clone()
                .see_to_the_end(exec.to_owned(), session, streams.clone()),
        );
        Ok((streams, output))
    }

    async fn see_to_the_end(
        self: Arc<Self>,
        exec: String,
        session: Arc<Session>,
        streams: Arc<ProcessStreams>,
    ) {
        let exit = self.pod.wait(&session.container, Some(&exec)).await;
        let _ = tokio::time::timeout(LAST_WORDS, streams.drained()).await;
        if let Err(e) = self.pod.delete(&session.container, Some(&exec)).await {
            log::debug!("Exec {exec} of container {}: {e}", session.container);
        }
        // Not known how it ended: its container was removed, and killed it.
        session.exit.send_replace(Some(exit.unwrap_or(Exit {
            status: 128 + libc::SIGKILL as u32,
            at: std::time::SystemTime::now(),
        })));
        lock(&self.sessions).remove(&exec);
    }

    /// Takes back a recorded process, or kills it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] while it runs, unless `force`.
    pub async fn remove_exec(&self, exec: &str, force: bool) -> Result<()> {
        let session = self.session(exec)?;
        if !*lock(&session.started) {
            lock(&self.sessions).remove(exec);
            return Ok(());
        }
        if !force {
            return Err(Error::WrongState {
                what: "exec",
                id: exec.to_owned(),
                operation: "remove",
                state: "running".into(),
            });
        }
        let kill = libc::SIGKILL as u32;
        self.pod
            .kill(&session.container, Some(exec), kill, false)
            .await?;
        ended(&session).await;
        Ok(())
    }

    /// Something that answers how a process has ended, even when it is
    /// forgotten by then.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn end_of(&self, exec: &str) -> Result<impl Future<Output = Exit> + Send + use<>> {
        let session = self.session(exec)?;
        Ok(async move { ended(&session).await })
    }

    /// The numbers of the containers that run, of those asked for or of all.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] for one that was asked for and
    /// does not run.
    pub async fn stats(&self, names: &[String]) -> Result<api::StatsResponse> {
        let all = self.pod.container_ids();
        let mut response = api::StatsResponse::default();
        for name in if names.is_empty() { &all } else { names } {
            let runs = self.pod.state(name, None)?.status != Status::Stopped;
            if runs || !names.is_empty() {
                let measured = measure::measure(&self.pod, name).await?;
                response.containers.push(measured);
            }
        }
        (response.vm_memory, response.vm_cpu_ns) = self.pod.vm_usage();
        Ok(response)
    }

    /// The processes of a container, as the guest numbers them.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn processes(&self, container: &str) -> Result<api::ProcessesResponse> {
        measure::list(&self.pod, container).await
    }

    /// What is said to those who would change a container of the pod, or the
    /// pod itself, from here.
    pub fn refusal(&self, container: Option<&str>) -> Error {
        let config = &self.pod.spec;
        let container = container.unwrap_or(&config.id);
        crate::engine::foreign::refusal(config.front_door, &config.namespace, container)
    }

    fn session(&self, exec: &str) -> Result<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let found = sessions.get(exec).cloned();
        found.ok_or_else(|| Error::not_found("exec", exec))
    }
}

async fn ended(session: &Session) -> Exit {
    let mut exit = session.exit.subscribe();
    loop {
        if let Some(exit) = *exit.borrow_and_update() {
            return exit;
        }
        // The sender lives in `session`: this cannot fail.
        let _ = exit.changed().await;
    }
}
