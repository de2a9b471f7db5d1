//! Containers of a pod: started, changed and removed. How they are made is in
//! `create`.

pub mod cri;
pub(crate) mod guest_spec;
pub(crate) mod hooks;
pub mod pid_proxy;
pub(crate) mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use protos::agent as api;

use crate::agent;
use crate::container::cri::Dialect;
use crate::container::hooks::HostHooks;
use crate::container::process::Process;
use crate::error::{Error, Result};
use crate::events::{Event, Exit};
use crate::pod::create::ContainerConfig;
use crate::pod::resize::Limits;
use crate::pod::{Pod, lock};
use crate::state::{Status, Step};
use crate::state_dir::record::{ContainerRecord, ContainerState};
use crate::stdio::Stdio;

/// How long a process has to end that was killed.
pub(crate) const KILLED: Duration = Duration::from_secs(20);

/// A container of a pod that this process owns.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    pub(crate) init: Arc<Process>,
    /// Its pid namespace dies with its init.
    pub(crate) own_pid_namespace: bool,
    pub(crate) hooks: HostHooks,
    limits: Mutex<Limits>,
    guest_pid: AtomicU32,
    oom: AtomicBool,
    /// Where CRI-O looks for what containerd is told by an event.
    oom_file: Option<PathBuf>,
    /// Its init has ended, though this has not been told of yet.
    ended: AtomicBool,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Container {
    pub(crate) fn new(config: &ContainerConfig, spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|l| l.resources().as_ref());
        let namespaces = linux.and_then(|l| l.namespaces().as_ref());
        let own_pid_namespace = namespaces
            .into_iter()
            .flatten()
            .any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none());
        Self {
            record: ContainerRecord {
                id: config.id.clone(),
                bundle: config.bundle.clone(),
                sandbox: config.sandbox,
                created: SystemTime::now(),
            },
            init: Arc::new(Process::new(&config.id, None, &config.io)),
            own_pid_namespace,
            hooks: HostHooks::of(spec),
            limits: Mutex::new(Limits::of(resources)),
            guest_pid: AtomicU32::new(0),
            oom: AtomicBool::new(false),
            oom_file: spec
                .annotations()
                .as_ref()
                .and_then(Dialect::of)
                .filter(|dialect| dialect.is_cri_o())
                .map(|_| config.bundle.join("oom")),
            ended: AtomicBool::new(false),
            execs: Mutex::default(),
        }
    }

    /// What it may use at the most; nothing once it has ended.
    pub(crate) fn limits(&self) -> Limits {
        if self.is_live() {
            *lock(&self.limits)
        } else {
            Limits::default()
        }
    }

    /// Whether it needs the VM.
    pub(crate) fn is_live(&self) -> bool {
        !self.ended.load(Ordering::SeqCst) && !self.init.status().is_stopped()
    }

    /// From now on it does not need the VM. Of two containers that end at the
    /// same time, at least one then sees that nobody is left.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// The init's pid in the guest; 0 before it is built.
    pub(crate) fn guest_pid(&self) -> u32 {
        self.guest_pid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_guest_pid(&self, pid: u32) {
        self.guest_pid.store(pid, Ordering::Relaxed);
    }

    /// Its init or one of its execs.
    pub(crate) fn process(&self, exec: Option<&str>) -> Result<Arc<Process>> {
        match exec {
            None => Ok(self.init.clone()),
            Some(id) => {
                let execs = lock(&self.execs);
                execs
                    .get(id)
                    .cloned()
                    .ok_or_else(|| Error::not_found("exec", id))
            }
        }
    }

    pub(crate) fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().cloned().collect()
    }

    /// Adds an exec under an id that must be free.
    pub(crate) fn insert_exec(&self, id: &str, process: Arc<Process>) -> Result<()> {
        let mut execs = lock(&self.execs);
        if execs.contains_key(id) {
            return Err(Error::AlreadyExists {
                what: "exec",
                id: id.to_owned(),
            });
        }
        execs.insert(id.to_owned(), process);
        Ok(())
    }

    pub(crate) fn remove_exec(&self, id: &str) {
        lock(&self.execs).remove(id);
    }

    /// Tells of memory pressure, once: before the exit that it leads to.
    pub(crate) fn report_oom(&self, pod: &Pod) {
        if !self.init.status().is_stopped() && !self.oom.swap(true, Ordering::Relaxed) {
            if let Some(path) = &self.oom_file
                && let Err(error) = std::fs::File::create(path)
            {
                log::warn!("Cannot create {}: {error}", path.display());
            }
            pod.emit(Event::Oom {
                container: self.record.id.clone(),
            });
        }
    }

    /// Writes the container's state file.
    pub(crate) fn save(&self, pod: &Pod) -> Result<()> {
        let _lock = crate::state_dir::lock::PodLock::exclusive(&pod.dir)?;
        let execs = lock(&self.execs);
        let state = ContainerState {
            init: self.init.record(),
            guest_pid: self.guest_pid(),
            execs: execs
                .iter()
                .map(|(id, p)| (id.clone(), p.record()))
                .collect(),
        };
        drop(execs);
        let path = pod.dir.container(&self.record.id).join("state.json");
        crate::state_dir::write(&path, &state)
    }

    /// As [`Container::save`], where the change has happened already and must
    /// be told of even if it cannot be written down.
    pub(crate) fn save_or_warn(&self, pod: &Pod) {
        if let Err(e) = self.save(pod) {
            log::warn!("Container {}: {e}", self.record.id);
        }
    }

    /// Waits until the end of the VM has reached every process.
    pub(crate) async fn settle_after_vm(&self) {
        for process in self.execs().into_iter().chain([self.init.clone()]) {
            if !matches!(process.status(), Status::Creating) && process.pid() != 0 {
                let _ = tokio::time::timeout(Duration::from_secs(2), process.ended()).await;
            }
            process.drop_stdio();
            process.drop_holder();
        }
    }
}

impl Pod {
    /// Ends a container that was not started. A guest that does not do so is ended
    /// with its VM, unless other containers live in it.
    async fn kill_created(self: &Arc<Self>, container: &Container) -> Result<()> {
        let id = &container.record.id;
        match self.kill(id, None, libc::SIGKILL as u32, true).await {
            // It has ended by itself.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        if tokio::time::timeout(KILLED, container.init.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let late = || Error::NotEnded {
            what: format!("Container {id}"),
            seconds: KILLED.as_secs(),
        };
        if self.others_live(id) {
            return Err(late());
        }
        self.kill_vm("the guest did not end a container that was killed")
            .await;
        let ended = tokio::time::timeout(KILLED, container.init.ended()).await;
        ended.map_err(|_| late())?.map(drop)
    }

    /// Releases the init of a created container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is created; the agent's.
    pub async fn start(self: &Arc<Self>, container: &str) -> Result<u32> {
        let found = self.container(container)?;
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let (id, init) = (&found.record.id, &found.init);
            init.step(Step::Start, "start")?;
            found.save(&pod)?;
            init.with_stdio(Stdio::start_input);
            let answer = pod
                .unless_gone(pod.agent.start_container(agent::container(id)))
                .await;
            if let Err(e) = answer {
                // Not half started: its watcher tells of the end.
                let _ = init.step(Step::StartFailed, "start");
                let _ = pod.kill(id, None, libc::SIGKILL as u32, true).await;
                return Err(e);
            }
            let pid = init.pid();
            pod.emit(Event::Started {
                container: id.clone(),
                pid,
            });
            // It may have ended already: its watcher waits for this step.
            let _ = init.step(Step::Started, "start");
            found.save_or_warn(&pod);
            found.hooks.started(id, pid, &found.record.bundle).await;
            Ok(pid)
        })
        .await
    }

    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs; the agent's.
    pub async fn pause(self: &Arc<Self>, container: &str) -> Result<()> {
        self.freeze(container, true).await
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is paused; the agent's.
    pub async fn resume(self: &Arc<Self>, container: &str) -> Result<()> {
        self.freeze(container, false).await
    }

    async fn freeze(self: &Arc<Self>, container: &str, pause: bool) -> Result<()> {
        let found = self.container(container)?;
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let id = found.record.id.clone();
            let (step, verb) = if pause {
                (Step::Pause, "pause")
            } else {
                (Step::Resume, "resume")
            };
            if found.init.status().after(step).is_none() {
                return Err(found.init.wrong_state(found.init.status(), verb));
            }
            let request = agent::container(&id);
            if pause {
                pod.unless_gone(pod.agent.pause_container(request)).await?;
            } else {
                pod.unless_gone(pod.agent.resume_container(request)).await?;
            }
            found.init.step(step, verb)?;
            found.save_or_warn(&pod);
            pod.emit(if pause {
                Event::Paused { container: id }
            } else {
                Event::Resumed { container: id }
            });
            Ok(())
        })
        .await
    }

    /// Changes the resource limits of a container: OCI `LinuxResources` as
    /// JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad JSON; the agent's.
    pub async fn update(self: &Arc<Self>, container: &str, resources: &[u8]) -> Result<()> {
        let found = self.container(container)?;
        let mut resources: LinuxResources = serde_json::from_slice(resources).map_err(|e| {
            Error::Invalid(format!(
                "The resources to update are not OCI LinuxResources: {e}"
            ))
        })?;
        if found.init.status().is_stopped() {
            return Err(found.init.wrong_state(found.init.status(), "update"));
        }
        let asked = resources.clone();
        guest_spec::guest_resources(&mut resources);
        let request = api::UpdateContainerRequest {
            container_id: container.to_owned(),
            resources: serde_json::to_vec(&resources)
                .map_err(|e| Error::Internal(e.to_string()))?,
            ..Default::default()
        };
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let before = *lock(&found.limits);
            let after = before.updated(Some(&asked));
            // Room first, then the right to use it.
            let more = Limits {
                cpus: before.cpus.max(after.cpus),
                memory: before.memory.max(after.memory),
            };
            *lock(&found.limits) = more;
            let updated = match pod.fit().await {
                Ok(()) => pod
                    .unless_gone(pod.agent.update_container(request))
                    .await
                    .map(drop),
                Err(e) => Err(e),
            };
            *lock(&found.limits) = if updated.is_ok() { after } else { before };
            // Memory in use cannot be taken back at once; it will with the next change.
            if let Err(e) = pod.fit().await {
                log::warn!("Pod {} keeps its size: {e}", pod.id());
            }
            updated
        })
        .await
    }

    /// Removes a container that has ended or was never started (`exec` none),
    /// or one of its execs. Returns its pid and how it ended.
    ///
    /// # Errors
    /// [`Error::WrongState`] while it runs.
    pub async fn delete(
        self: &Arc<Self>,
        container: &str,
        exec: Option<&str>,
    ) -> Result<(u32, Exit)> {
        if let Some(exec) = exec {
            return self.delete_exec(container, exec).await;
        }
        let found = self.container(container)?;
        self.detached(|pod| async move {
            if found.init.status() == Status::Created {
                pod.kill_created(&found).await?;
            }
            let _op = pod.op.lock().await;
            let id = &found.record.id;
            if !found.init.status().is_stopped() {
                return Err(found.init.wrong_state(found.init.status(), "delete"));
            }
            pod.container(id)?;
            let (pid, exit) = (found.init.pid(), found.init.ended().await?);
            if pod.check_vm().is_ok()
                && let Err(e) = pod.remove_from_guest(id).await
            {
                log::warn!("Container {id}: the guest did not let go of it: {e}");
            }
            pod.detach_disks(id).await;
            for process in found.execs().iter().chain([&found.init]) {
                pod.flush(process).await;
                process.drop_stdio();
                process.drop_holder();
            }
            pod.forget(id).await?;
            lock(&pod.containers).remove(id);
            found.hooks.stopped(id, &found.record.bundle).await;
            pod.emit(Event::Deleted {
                container: id.clone(),
                pid,
                exit,
            });
            Ok((pid, exit))
        })
        .await
    }
}
