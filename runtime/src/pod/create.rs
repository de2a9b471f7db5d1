//! Creating a container and undoing that: its mounts, its pid proxies, its streams, its init in
//! the guest.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protos::{GUEST_SHARE, agent as api};

use crate::agent;
use crate::blocking::on_thread;
use crate::container::Container;
use crate::container::bundle;
use crate::container::config::ContainerConfig;
use crate::container::cri::Dialect;
use crate::container::guest_spec::host_namespaces::check_host_namespaces;
use crate::container::guest_spec::{self, Placement};
use crate::error::{Context, Error, Result};
use crate::events::PodEvent;
use crate::pod::Pod;
use crate::pod::block;
use crate::state::Step;
use crate::state_dir::id::check_id;
use crate::state_dir::lock::PodLock;
use crate::state_dir::private;
use crate::state_dir::record;
use crate::stdio::ProcessIo;
use crate::sync::lock;

/// How long the guest may take to remove a container that has ended. The host's side is removed
/// in any case.
const REMOVE_DEADLINE: Duration = Duration::from_secs(3);

impl Pod {
    /// The root file system of one of its containers on the host.
    pub fn rootfs(&self, container: &str) -> std::path::PathBuf {
        self.share.rootfs(container)
    }

    /// Builds a container up to the point where its init waits for [`Pod::start`]. Returns the
    /// init's pid on the host.
    ///
    /// # Errors
    /// Errors of the spec and the bundle, naming the field; the agent's errors. The container is then
    /// removed completely.
    pub async fn create_container(self: &Arc<Self>, config: ContainerConfig) -> Result<u32> {
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            pod.create_locked(config).await
        })
        .await
    }

    async fn create_locked(self: &Arc<Self>, mut config: ContainerConfig) -> Result<u32> {
        check_id("container id", &config.id)?;
        self.guest.check()?;
        let spec = &config.spec;
        bundle::check_spec(spec, &config.bundle)?;
        check_host_namespaces(spec, config.sandbox)?;
        bundle::check_host_paths(spec, &config.bundle, !config.rootfs.is_empty())?;
        let container = Arc::new(Container::new(
            &config,
            self.dir.clone(),
            self.events.clone(),
        ));
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
        match self.build(&container, &config, io).await {
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
        io: ProcessIo,
    ) -> Result<u32> {
        let (id, spec) = (&config.id, &config.spec);
        let annotations = spec.annotations().as_ref();
        let placement = Placement {
            id,
            bundle: &config.bundle,
            in_pod: annotations.is_some_and(|a| Dialect::of(a).is_some()),
            sandbox_pid: self.sandbox_guest_pid(),
            share_pid: self.spec.share_pid,
        };
        let mut guest = guest_spec::translate(spec, &placement)?;
        let disks = block::wanted(spec, &config.bundle);
        let is_disk = |n: &usize| disks.iter().any(|disk| disk.mount == Some(*n));
        guest.sources.retain(|(n, _)| !is_disk(n));

        // Intent first: from here on recovery finds the container.
        let dir = self.dir.container(id);
        private::make(&dir)?;
        record::save(&self.dir, &dir.join("config.json"), &container.record)?;
        container.save()?;

        let share = self.share.clone();
        let (name, rootfs, directory, sources) = (
            id.clone(),
            config.rootfs.clone(),
            bundle::root_directory(spec, &config.bundle),
            guest.sources,
        );
        let mount = move || {
            share.attach_rootfs(&name, &rootfs, &directory)?;
            sources
                .iter()
                .try_for_each(|(n, mount)| share.attach_source(&name, *n, mount))?;
            share.below(&name)
        };
        let below = on_thread("mounting for a container", mount).await??;

        if !disks.is_empty() {
            self.disks
                .attach(&self.guest, id, &disks, &mut guest.spec)
                .await?;
        }
        let pending = self.streams.prepare(io)?;
        let request = api::CreateContainerRequest {
            container_id: id.clone(),
            spec: serde_json::to_vec(&guest.spec).map_err(Error::encode("the OCI spec"))?,
            stdio: Some(pending.request()).into(),
            storages: guest.storages,
            submounts: below.iter().filter_map(|path| guest_path(path)).collect(),
            ..Default::default()
        };
        // These run at the same time, since moving the pid proxy to its cgroup takes the host a
        // while. All run to their ends, so that their results can be undone in order.
        let (signals, answer, stdio) = tokio::join!(
            self.start_pid_proxy(&container.init, id),
            self.guest
                .unless_gone(self.guest.agent.create_container(request)),
            self.guest.unless_gone(pending.connect()),
        );
        // The agent's error comes first: it says more than that of a stream which the guest did
        // not accept.
        let (signals, answer, stdio) = (signals?, answer?, stdio?);
        container.set_guest_pid(answer.pid);
        container.init.set_stdio(stdio);

        let pid = container.init.pid();
        container.hooks.created(id, pid, &config.bundle).await?;
        // A container of a VM that has ended meanwhile was not created: its caller would have to
        // remove it.
        self.guest.check()?;
        container.init.step(Step::Built, "create")?;
        container.save()?;
        self.events.emit(PodEvent::Created {
            container: id.clone(),
            pid,
        });
        self.watch(container.clone(), container.init.clone());
        self.forward_signals(container.clone(), container.init.clone(), signals);
        Ok(pid)
    }

    /// Removes the parts of a container that have been made.
    async fn unbuild(&self, container: &Container) {
        let id = &container.record.id;
        // It may be in the guest already.
        let _ = self.remove_from_guest(id).await;
        self.disks.detach(&self.guest, id).await;
        container.init.drop_stdio();
        container.init.drop_pid_proxy();
        if let Err(e) = self.forget(id).await {
            log::warn!("Container {id} could not be taken back: {e}");
        }
        lock(&self.containers).remove(id);
        // The others may have ended while this one still counted as alive.
        let unused = !self.is_empty() && !self.others_live(id);
        if unused && !self.spec.outlives_containers {
            self.guest.stop("its last container ended").await;
        }
    }

    /// Removes the host's side of a container.
    pub(crate) async fn forget(&self, id: &str) -> Result<()> {
        let (share, pod_dir, name) = (self.share.clone(), self.dir.clone(), id.to_owned());
        let remove = move || {
            share.detach(&name)?;
            let _lock = PodLock::exclusive(&pod_dir)?;
            let dir = pod_dir.container(&name);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", &dir),
                _ => Ok(()),
            }
        };
        on_thread("removing a container", remove).await?
    }

    pub(crate) async fn remove_from_guest(&self, id: &str) -> Result<()> {
        self.guest.check()?;
        let call = self
            .guest
            .unless_gone(self.guest.agent.remove_container(agent::container(id)));
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
        Some(sandbox.guest_pid()).filter(|pid| *pid != 0)
    }
}

/// A path of the share tree in the guest. `None` if it is not UTF-8: the guest then mounts it
/// when a container first uses it.
fn guest_path(path: &Path) -> Option<String> {
    Path::new(GUEST_SHARE)
        .join(path)
        .to_str()
        .map(str::to_owned)
}
