//! The owner of a pod that the engine does not manage, in containerd's shim or in `run`: exec,
//! signals, stats and process lists. It makes no other changes to the containers, and the pod's
//! manager gets no events of the processes that it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::container::bundle::load_spec;
use crate::engine::journal::Event;
use crate::engine::owner::exec::{self, Connected, ExecHost, Sessions, Starter, Template};
use crate::engine::owner::service::{InitAttach, PodService};
use crate::engine::owner::streams::ProcessStreams;
use crate::engine::status::Outcome;
use crate::engine::usage::{self, ContainerProcess, PodUsage};
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::pod::Pod;
use crate::state::Status;
use crate::sync::lock;

/// The prefix of the exec ids of foreign processes.
const PREFIX: &str = "rust-kata.";

/// Whether an exec id belongs to a process that the pod's manager did not start.
pub fn is_foreign_exec(exec: &str) -> bool {
    exec.starts_with(PREFIX)
}

/// A foreign pod, in the process that owns it.
#[derive(Debug)]
pub struct ForeignOwner {
    pod: Arc<Pod>,
    /// The processes that were started here, by container. Kept in memory, since they end with
    /// this process.
    sessions: watch::Sender<BTreeMap<String, Sessions>>,
    /// The streams of running processes, by exec id.
    streams: Mutex<BTreeMap<String, Arc<ProcessStreams>>>,
}

impl ForeignOwner {
    /// The owner of a pod that belongs to this process.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        Arc::new(Self {
            pod,
            sessions: watch::Sender::default(),
            streams: Mutex::default(),
        })
    }

    /// The error for an attempt to change the pod from here.
    pub fn refusal(&self) -> Error {
        super::refusal(&self.pod.spec, "pod", &self.pod.spec.id)
    }
}

impl ExecHost for ForeignOwner {
    const PREFIX: &'static str = PREFIX;

    fn vm(&self, _: &'static str) -> Result<Arc<Pod>> {
        Ok(self.pod.clone())
    }

    fn template(&self, container: &str) -> Result<Template> {
        let state = self.pod.state(container, None)?;
        if state.status != Status::Running {
            return Err(Error::WrongState {
                what: "container",
                id: container.to_owned(),
                operation: "run a process in",
                state: state.status.to_string(),
            });
        }
        let own = load_spec(&state.bundle)?.process().clone();
        Ok(Template {
            process: own.unwrap_or_default(),
            user: None,
            layers: vec![self.pod.share.rootfs(container)],
        })
    }

    fn change_sessions<T>(
        &self,
        container: &str,
        change: impl FnOnce(&mut Sessions) -> T,
    ) -> Result<T> {
        let there = self.pod.container_ids();
        let mut changed = None;
        self.sessions.send_modify(|all| {
            let lives = |sessions: &Sessions| sessions.values().any(|one| one.status.is_live());
            all.retain(|name, sessions| there.contains(name) || lives(sessions));
            if there.iter().any(|name| name == container) || all.contains_key(container) {
                changed = Some(change(all.entry(container.to_owned()).or_default()));
            }
        });
        changed.ok_or_else(|| Error::not_found("container", container))
    }

    fn hold(&self, _: &str, exec: &str, streams: Option<Arc<ProcessStreams>>) {
        let mut held = lock(&self.streams);
        match streams {
            Some(streams) => held.insert(exec.to_owned(), streams),
            None => held.remove(exec),
        };
    }

    fn append(&self, _: &str, _: impl FnOnce(Event) -> Event) {}

    fn follow(self: &Arc<Self>, pod: Arc<Pod>, container: &str, exec: &str) {
        let (owner, container, exec) = (self.clone(), container.to_owned(), exec.to_owned());
        tokio::spawn(async move {
            let exit = pod.wait(&container, Some(&exec)).await;
            let exit = exit.unwrap_or_else(|_| killed());
            exec::ended(&*owner, &pod, &container, &exec, exit).await;
        });
    }

    fn end_of(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
    ) -> Result<BoxFuture<'static, Result<Exit>>> {
        let mut sessions = self.sessions.subscribe();
        let (container, exec) = (container.to_owned(), exec.to_owned());
        Ok(Box::pin(async move {
            loop {
                {
                    let all = sessions.borrow_and_update();
                    let session = all.get(&container).and_then(|all| all.get(&exec));
                    let Some(session) = session else {
                        return Ok(killed());
                    };
                    if let Some((status, at)) = session.exit_code.zip(session.finished) {
                        return Ok(Exit { status, at });
                    }
                }
                if sessions.changed().await.is_err() {
                    return Ok(killed());
                }
            }
        }))
    }
}

/// The end of a process whose container was removed.
fn killed() -> Exit {
    Exit {
        status: Exit::KILLED,
        at: SystemTime::now(),
    }
}

impl PodService for ForeignOwner {
    /// A signal has no more effect than one from a process of the container.
    async fn kill(&self, containers: &[String], signal: u32, all: bool) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let there = self.pod.container_ids();
        for name in if containers.is_empty() {
            &there
        } else {
            containers
        } {
            let ended = self.pod.state(name, None)?.status == Status::Stopped;
            if ended && containers.is_empty() {
                outcome.ignored.push(name.clone());
                continue;
            }
            outcome.add(name, self.pod.kill(name, None, signal, all).await);
        }
        Ok(outcome)
    }

    async fn wait(&self, container: &str) -> Result<Exit> {
        self.pod.wait(container, None).await
    }

    async fn usage(&self, containers: &[String]) -> Result<PodUsage> {
        let there = self.pod.container_ids();
        let mut used = PodUsage::default();
        for name in if containers.is_empty() {
            &there
        } else {
            containers
        } {
            let runs = self.pod.state(name, None)?.status != Status::Stopped;
            if runs || !containers.is_empty() {
                used.containers.push(usage::measure(&self.pod, name).await?);
            }
        }
        (used.vm_memory, used.vm_cpu_ns) = self.pod.vm_usage();
        Ok(used)
    }

    async fn processes(&self, container: &str) -> Result<Vec<ContainerProcess>> {
        usage::list(&self.pod, container).await
    }

    async fn attach(self: &Arc<Self>, _: &str, _: InitAttach, _: Starter) -> Result<Connected> {
        Err(self.refusal())
    }
}
