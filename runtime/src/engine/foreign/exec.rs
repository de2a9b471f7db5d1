//! Exec, stats and process lists in a pod that the engine does not manage. Nothing else
//! of its containers is changed. The manager of the pod gets no events of the processes
//! that are run here.

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

/// The prefix of the exec ids of foreign processes.
const PREFIX: &str = "rust-kata.";

/// The largest number of such processes in a pod at a time.
const MAX_EXECS: usize = 256;

/// How long the output of an ended process is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether an exec id is of a process that was run from outside the pod's manager.
pub fn is_foreign_exec(exec: &str) -> bool {
    exec.starts_with(PREFIX)
}

/// The processes that are run in a foreign pod from here.
#[derive(Debug)]
pub struct Execs {
    pod: Arc<Pod>,
    /// By exec id, until they have ended.
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
}

/// A process that runs, or is created and not started yet.
#[derive(Debug)]
struct Exec {
    container: String,
    session: ExecSession,
    process: Process,
    started: Mutex<bool>,
    exit: watch::Sender<Option<Exit>>,
}

impl Execs {
    /// Begins for a pod that this process owns.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        Arc::new(Self {
            pod,
            execs: Mutex::default(),
        })
    }

    /// The pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Creates a process in a container, not started yet, and returns its exec id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless the container runs;
    /// [`Error::User`] for an unknown user.
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
            return Err(Error::NoCommand {
                what: "exec in",
                id: container.to_owned(),
            });
        }
        crate::stdio::descriptor::check(request.preserve_fds.iter().map(|fd| fd.number))?;
        let base = load_spec(&state.bundle)?.process().clone();
        let base = base.unwrap_or_default();
        let session = request.session(&base);
        let layers = [self.pod.share.rootfs(container)];
        let process = exec_request::process_of(&session, base, session.user.as_ref(), &layers)?;
        let id = format!("{PREFIX}{}", &crate::state_dir::id::new_id()[..12]);
        let mut execs = lock(&self.execs);
        // The exec of a client that went away before it started its process.
        let stale = execs
            .iter()
            .find(|(_, session)| !*lock(&session.started))
            .map(|(id, _)| id.clone());
        if let Some(stale) = stale.filter(|_| execs.len() >= MAX_EXECS) {
            execs.remove(&stale);
        }
        if execs.len() >= MAX_EXECS {
            return Err(refused(format!("running {MAX_EXECS} of them already")));
        }
        let session = Exec {
            container: container.to_owned(),
            session,
            process,
            started: Mutex::new(false),
            exit: watch::Sender::new(None),
        };
        execs.insert(id.clone(), Arc::new(session));
        Ok(id)
    }

    /// Starts a created process, as [`start_exec`](crate::engine::owner::Owner::start_exec)
    /// of an owner does.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] if it was started before;
    /// [`Error::Descriptor`] unless there is an end for each descriptor;
    /// [`Error::Command`] for a command that cannot be run.
    pub async fn start_exec(
        self: &Arc<Self>,
        exec: &str,
        starter: Starter,
    ) -> Result<(Arc<ProcessStreams>, mpsc::Receiver<Piece>)> {
        let session = self.session(exec)?;
        let process = starter.begin(session.process.clone())?;
        let Starter { stdin, ends, .. } = starter;
        let descriptors = exec_request::descriptors(exec, &session.session.preserve_fds, ends)?;
        if std::mem::replace(&mut *lock(&session.started), true) {
            return Err(Error::WrongState {
                what: "exec",
                id: exec.to_owned(),
                operation: "start",
                state: "started already".into(),
            });
        }
        let (mut io, streams) = ProcessStreams::new(session.session.terminal, stdin, None);
        io.descriptors = descriptors;
        let output = streams.listen();
        let container = &session.container;
        let started = async {
            self.pod.add_exec(container, exec, process, io).await?;
            self.pod.start_exec(container, exec).await
        };
        if let Err(e) = started.await {
            let _ = self.pod.delete(container, Some(exec)).await;
            lock(&self.execs).remove(exec);
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
        session: Arc<Exec>,
        streams: Arc<ProcessStreams>,
    ) {
        let exit = self.pod.wait(&session.container, Some(&exec)).await;
        let _ = tokio::time::timeout(LAST_WORDS, streams.drained()).await;
        if let Err(e) = self.pod.delete(&session.container, Some(&exec)).await {
            log::debug!("Exec {exec} of container {}: {e}", session.container);
        }
        // No exit is known: the container was removed, which killed the process.
        session.exit.send_replace(Some(exit.unwrap_or(Exit {
            status: 128 + libc::SIGKILL as u32,
            at: std::time::SystemTime::now(),
        })));
        lock(&self.execs).remove(&exec);
    }

    /// Removes a created process, or kills a running one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] while it runs, unless `force`.
    pub async fn remove_exec(&self, exec: &str, force: bool) -> Result<()> {
        let session = self.session(exec)?;
        if !*lock(&session.started) {
            lock(&self.execs).remove(exec);
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

    /// A future of the exit of a process. It resolves even if the process was removed
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn end_of(&self, exec: &str) -> Result<impl Future<Output = Exit> + Send + use<>> {
        let session = self.session(exec)?;
        Ok(async move { ended(&session).await })
    }

    /// The resource usage of running containers: of `names`, or of all if that is empty.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] for a container in `names` that does not run.
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

    /// The error for an attempt to change a container of the pod, or the pod, from here.
    pub fn refusal(&self, container: Option<&str>) -> Error {
        let config = &self.pod.spec;
        let container = container.unwrap_or(&config.id);
        crate::engine::foreign::refusal(config.managed_by, &config.namespace, container)
    }

    fn session(&self, exec: &str) -> Result<Arc<Exec>> {
        let execs = lock(&self.execs);
        let found = execs.get(exec).cloned();
        found.ok_or_else(|| Error::not_found("exec", exec))
    }
}

async fn ended(session: &Exec) -> Exit {
    let mut exit = session.exit.subscribe();
    loop {
        if let Some(exit) = *exit.borrow_and_update() {
            return exit;
        }
        // This cannot fail: the sender lives in `session`.
        let _ = exit.changed().await;
    }
}
