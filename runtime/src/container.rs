//! Containers of a pod: made, started, changed and removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use protos::agent as api;

use crate::agent;
use crate::error::{Context, Error, Result};
use crate::events::{Event, Exit};
use crate::guest_spec::{self, Placement};
use crate::hooks::HostHooks;
use crate::mount::Mount;
use crate::paths::check_id;
use crate::pod::{Pod, lock};
use crate::process::Process;
use crate::record::{self, ContainerRecord, ContainerState};
use crate::state::{Status, Step};
use crate::stdio::{ProcessIo, Stdio};

/// The annotation that tells a container's part in a CRI pod.
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// How long the guest has to let go of a container that has ended. The host's
/// side of it goes in any case.
const REMOVE_DEADLINE: Duration = Duration::from_secs(3);

/// What a container is asked to be.
#[derive(Debug)]
pub struct ContainerConfig {
    /// Its id.
    pub id: String,
    /// Its OCI bundle, with `config.json`.
    pub bundle: PathBuf,
    /// The mounts that make its rootfs; empty: `root.path` of the spec.
    pub rootfs: Vec<Mount>,
    /// Its init's streams.
    pub io: ProcessIo,
    /// It is the pod's sandbox, or alone in its pod.
    pub sandbox: bool,
}

/// A container of a pod that this process owns.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    pub(crate) init: Arc<Process>,
    /// Its pid namespace dies with its init.
    pub(crate) own_pid_namespace: bool,
    hooks: HostHooks,
    guest_pid: AtomicU32,
    oom: AtomicBool,
    /// Its init has ended, though this has not been told of yet.
    ended: AtomicBool,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Container {
    fn new(config: &ContainerConfig, spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
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
            guest_pid: AtomicU32::new(0),
            oom: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            execs: Mutex::default(),
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
            pod.emit(Event::Oom {
                container: self.record.id.clone(),
            });
        }
    }

    /// Writes the container's state file.
    pub(crate) fn save(&self, pod: &Pod) -> Result<()> {
        let _lock = crate::lock::PodLock::exclusive(&pod.dir)?;
        let execs = lock(&self.execs);
        let state = ContainerState {
            init: self.init.now(),
            guest_pid: self.guest_pid.load(Ordering::Relaxed),
            execs: execs.iter().map(|(id, p)| (id.clone(), p.now())).collect(),
        };
        drop(execs);
        let path = pod.dir.container(&self.record.id).join("state.json");
        crate::store::write(&path, &state)
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
    /// Builds a container up to the point where its init waits for
    /// [`Pod::start`]. Returns the init's pid on the host.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle, by name; the agent's errors. Nothing
    /// of the container is left then.
    pub async fn create_container(self: &Arc<Self>, config: ContainerConfig) -> Result<u32> {
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            pod.create_locked(config).await
        })
        .await
    }

    async fn create_locked(self: &Arc<Self>, mut config: ContainerConfig) -> Result<u32> {
        check_id("container id", &config.id)?;
        self.check_vm()?;
        let spec = guest_spec::load_spec(&config.bundle)?;
        guest_spec::check_host_paths(&spec, &config.bundle, !config.rootfs.is_empty())?;
        let container = Arc::new(Container::new(&config, &spec));
        {
            let mut containers = lock(&self.containers);
            if containers.contains_key(&config.id) {
                return Err(Error::AlreadyExists {
                    what: "container",
                    id: config.id,
                });
            }
            containers.insert(config.id.clone(), container.clone());
        }
        let io = std::mem::take(&mut config.io);
        match self.build(&container, &config, &spec, io).await {
            Ok(pid) => Ok(pid),
            Err(e) => {
                self.unbuild(&container).await;
                Err(e)
            }
        }
    }

    async fn build(
        self: &Arc<Self>,
        container: &Arc<Container>,
        config: &ContainerConfig,
        spec: &Spec,
        io: ProcessIo,
    ) -> Result<u32> {
        let id = &config.id;
        let annotations = spec.annotations().as_ref();
        let placement = Placement {
            id,
            bundle: &config.bundle,
            in_pod: annotations.is_some_and(|a| a.contains_key(CONTAINER_TYPE)),
            sandbox_pid: self.sandbox_guest_pid(),
        };
        let guest = guest_spec::translate(spec, &placement)?;

        // Intent first: from here on recovery finds the container.
        let dir = self.dir.container(id);
        fs::create_dir_all(&dir).on("create", &dir)?;
        record::save(&self.dir, &dir.join("config.json"), &container.record)?;
        container.save(self)?;

        let share = self.share.clone();
        let (name, rootfs, directory, sources) = (
            id.clone(),
            config.rootfs.clone(),
            guest_spec::root_directory(spec, &config.bundle),
            guest.sources,
        );
        tokio::task::spawn_blocking(move || {
            share.attach_rootfs(&name, &rootfs, &directory)?;
            sources
                .iter()
                .try_for_each(|(n, mount)| share.attach_source(&name, *n, mount))
        })
        .await
        .map_err(|e| Error::Internal(format!("Mounting for container {id} broke off: {e}")))??;

        let signals = self.start_holder(&container.init, id).await?;
        let pending = self.streams.prepare(io)?;
        let request = api::CreateContainerRequest {
            container_id: id.clone(),
            spec: serde_json::to_vec(&guest.spec).map_err(|e| Error::Internal(e.to_string()))?,
            stdio: Some(pending.request()).into(),
            ..Default::default()
        };
        let answer = self
            .unless_gone(self.agent.create_container(request))
            .await?;
        container.guest_pid.store(answer.pid, Ordering::Relaxed);
        container.init.set_stdio(pending.connect().await?);

        let pid = container.init.pid();
        container.hooks.created(id, pid, &config.bundle).await?;
        container.init.step(Step::Built, "create")?;
        container.save(self)?;
        self.emit(Event::Created {
            container: id.clone(),
            pid,
        });
        self.watch(container.clone(), container.init.clone());
        self.forward_signals(container.clone(), container.init.clone(), signals);
        Ok(pid)
    }

    /// Takes back whatever of a container was made.
    async fn unbuild(&self, container: &Container) {
        let id = &container.record.id;
        // It may have got as far as the guest.
        let _ = self.remove_from_guest(id).await;
        container.init.drop_stdio();
        container.init.drop_holder();
        if let Err(e) = self.forget(id).await {
            log::warn!("Container {id} could not be taken back: {e}");
        }
        lock(&self.containers).remove(id);
        // The others may have ended while this one counted as alive.
        if !self.is_empty() && !self.others_live(id) {
            self.stop_vm("its last container ended").await;
        }
    }

    /// Removes the host's side of a container.
    async fn forget(&self, id: &str) -> Result<()> {
        let (share, pod_dir, name) = (self.share.clone(), self.dir.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || {
            share.detach(&name)?;
            let _lock = crate::lock::PodLock::exclusive(&pod_dir)?;
            let dir = pod_dir.container(&name);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", &dir),
                _ => Ok(()),
            }
        })
        .await
        .map_err(|e| Error::Internal(format!("Removing container {id} broke off: {e}")))?
    }

    async fn remove_from_guest(&self, id: &str) -> Result<()> {
        self.check_vm()?;
        let call = self.unless_gone(self.agent.remove_container(agent::container(id)));
        match tokio::time::timeout(REMOVE_DEADLINE, call).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Error::AgentTimeout {
                call: "remove_container",
                seconds: REMOVE_DEADLINE.as_secs(),
            }),
        }
    }

    fn sandbox_guest_pid(&self) -> Option<u32> {
        let containers = self.containers();
        let sandbox = containers
            .iter()
            .find(|c| c.record.sandbox && !c.init.status().is_stopped())?;
        Some(sandbox.guest_pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
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
            init.with_stdio(Stdio::start_stdin);
            let answer = pod
                .unless_gone(pod.agent.start_container(agent::container(id)))
                .await;
            if let Err(e) = answer {
                // The watcher tells of the end, which the agent sees to.
                let _ = init.step(Step::StartFailed, "start");
                init.end(255);
                found.save_or_warn(&pod);
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
        guest_spec::guest_resources(&mut resources);
        let request = api::UpdateContainerRequest {
            container_id: container.to_owned(),
            resources: serde_json::to_vec(&resources)
                .map_err(|e| Error::Internal(e.to_string()))?,
            ..Default::default()
        };
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            pod.unless_gone(pod.agent.update_container(request))
                .await
                .map(drop)
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
                pod.kill(&found.record.id, None, libc::SIGKILL as u32, true)
                    .await?;
                found.init.ended().await?;
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
                exec: None,
                pid,
                exit,
            });
            Ok((pid, exit))
        })
        .await
    }
}
