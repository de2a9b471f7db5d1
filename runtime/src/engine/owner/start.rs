//! Booting the pod's VM, and starting containers in it, each after its dependencies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::{Owner, Tracked};
use crate::engine::graph::Graph;
use crate::engine::records::definition::SharedNamespace;
use crate::engine::records::view::PodView;
use crate::engine::status::{Applicability, ContainerStatus, Operation, Outcome};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::state_dir::record::PodConfig;
use crate::sync::lock;

impl Owner {
    /// Builds containers up to the point where their inits wait.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the VM's, if it cannot be booted. Errors of single containers are
    /// in the outcome.
    pub async fn init(self: &Arc<Self>, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let outcome = self.init_locked(names).await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn init_locked(
        self: &Arc<Self>,
        names: &[String],
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for container in self.fitting(Operation::Init, names, &mut outcome)? {
            let pod = self.boot().await?;
            let result = self.build(&pod, &container).await;
            outcome.add(container.name(), result);
        }
        Ok(outcome)
    }

    /// Starts containers, each after its dependencies. With `dependencies`, starts these as
    /// well; without, a container is not started if one of its dependencies does not run.
    ///
    /// # Errors
    /// As [`Owner::init`]; [`Error::Dependency`] for dependencies in a circle.
    pub async fn start(self: &Arc<Self>, names: &[String], dependencies: bool) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let empty = lock(&self.containers).is_empty();
        let outcome = self.start_locked(names, dependencies).await;
        // An exit policy is about containers that have ended: an empty pod stays up.
        let definition = &self.definition;
        let stays = empty && definition.infra && !definition.single;
        if !(stays && self.live().is_some()) {
            // If nothing could be started, there is nothing left to own.
            self.end_if_unused_locked().await;
        }
        outcome
    }

    pub(in crate::engine) async fn start_locked(
        self: &Arc<Self>,
        names: &[String],
        dependencies: bool,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let graph = self.graph();
        let asked: Vec<String> = match (names.is_empty(), dependencies) {
            (true, _) => graph.order().to_vec(),
            (false, true) => graph.with_dependencies(names.iter().map(String::as_str)),
            (false, false) => {
                let chosen = |name: &&String| names.contains(name);
                self.chosen(names)?;
                graph.order().iter().filter(chosen).cloned().collect()
            }
        };
        let pod = match self.boot().await {
            Ok(pod) => pod,
            Err(error) => {
                for name in &asked {
                    self.remove_failed(name);
                }
                return Err(error);
            }
        };
        self.change_pod(|state| state.started = true)?;
        for name in asked {
            let container = self.tracked(&name)?;
            let status = container.now().status;
            match Operation::Start.applicability(status) {
                Applicability::Applies => {}
                Applicability::NoOp => {
                    outcome.ignored.push(name);
                    continue;
                }
                // Also when the whole pod is started, as with podman: a start without an error
                // means that the container runs.
                Applicability::Invalid => {
                    let error = self.wrong_state(&container, "start");
                    outcome.errors.insert(name, error);
                    continue;
                }
            }
            let result = match self.check_startable(&graph, &name, &[]) {
                Ok(()) => self.start_one(&pod, &container, 0).await,
                Err(error) => Err(error),
            };
            if result.is_err() {
                self.remove_failed(&name);
            }
            outcome.add(&name, result);
        }
        Ok(outcome)
    }

    /// Checks that all dependencies of a container run, or are among those that are started
    /// before it.
    pub(super) fn check_startable(
        &self,
        graph: &Graph,
        name: &str,
        before: &[String],
    ) -> Result<()> {
        for on in graph.dependencies(name) {
            if self.is_unread(on) {
                // The error names the file, and the remedy.
                PodView::read(&self.paths)?.container(on)?;
            }
        }
        graph.check(name)?;
        let runs = |on: &str| {
            let status = self.tracked(on).map(|c| c.now().status);
            matches!(status, Ok(ContainerStatus::Running)) || before.iter().any(|b| b == on)
        };
        match graph.dependencies(name).find(|on| !runs(on)) {
            Some(on) => Err(Error::WrongState {
                what: "container",
                id: name.to_owned(),
                operation: "start",
                state: format!("dependent on {on}, which does not run"),
            }),
            None => Ok(()),
        }
    }

    /// Starts one container that is not running; builds it first if needed. `restarts` counts
    /// the restarts by its policy, including this one; it is 0 for a start by a user.
    pub(super) async fn start_one(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Arc<Tracked>,
        restarts: u32,
    ) -> Result<()> {
        let started = async {
            if container.now().status != ContainerStatus::Initialized {
                self.build(pod, container).await?;
            }
            // Intent: from here on it may run.
            self.change(container, |state| {
                state.status = ContainerStatus::Running;
                state.started = Some(SystemTime::now());
                state.finished = None;
                state.exit_code = None;
                state.oom_killed = false;
                state.problem = None;
                state.stopped_by_user = false;
                state.restarts = restarts;
            })?;
            if restarts == 0 {
                container.in_a_row.store(0, Ordering::Relaxed);
            }
            pod.start(container.name()).await
        };
        match started.await {
            Ok(pid) => {
                self.record_start(container);
                self.record_change(container, |state| {
                    if state.status.is_live() {
                        state.pid = pid;
                    }
                });
                Ok(())
            }
            Err(e) => {
                self.record_change(container, |state| {
                    if !state.status.is_live() {
                        state.problem = Some(e.to_string());
                    }
                });
                self.unbuild(pod, container, &e).await;
                Err(e)
            }
        }
    }

    /// The pod's VM; boots it if it does not run. The caller holds `op`.
    pub(super) async fn boot(self: &Arc<Self>) -> Result<Arc<Pod>> {
        // Otherwise a late call would get a VM that ends with this process.
        self.ensure_not_leaving()?;
        let before = lock(&self.vm).clone();
        if let Some(pod) = before {
            if pod.guest.check().is_ok() {
                return Ok(pod);
            }
            // Remove what is left of the previous VM.
            pod.shutdown().await?;
            *lock(&self.vm) = None;
        }
        let spec = self.pod_config();
        let (pod, events) = self
            .engine
            .runtime_of(&self.definition)?
            .create_pod(spec, None)
            .await?;
        let hypervisor = pod.hypervisor();
        self.change_pod(|state| {
            state.hypervisor = Some(hypervisor);
            state.infra = self.definition.infra.then(|| self.definition.id.clone());
            state.problem = None;
        })?;
        tokio::spawn(self.clone().listen(pod.clone(), events));
        *lock(&self.vm) = Some(pod.clone());
        self.vm_reported.store(true, Ordering::Relaxed);
        *self.stop_hooks_due.lock().await = true;
        self.append_event("start");
        if let Err(e) = self
            .run_hooks(&self.definition.hooks.post_start, "running")
            .await
        {
            self.end_vm("its post-start hook failed").await;
            return Err(e);
        }
        Ok(pod)
    }

    pub(super) fn pod_config(&self) -> PodConfig {
        let definition = &self.definition;
        let resources = &definition.resources;
        let period = resources.cpu_period.unwrap_or(100_000).max(1);
        let cpus = resources.cpu_quota.filter(|quota| *quota > 0);
        let number = |name: &str, value: Option<u32>| {
            value.map(|value| (format!("io.rust-kata.{name}"), value.to_string()))
        };
        let sizes = [
            number("memory_mib", definition.memory_mib),
            number("vcpus", definition.vcpus),
        ];
        PodConfig {
            namespace: definition.namespace.clone(),
            id: definition.name.clone(),
            hostname: Some(definition.host_name()),
            cgroups_path: Some(definition.cgroup_path(self.engine.config().cgroup_manager)),
            cpu_limits: resources.cpu_limits(),
            labels: sizes.into_iter().flatten().collect::<HashMap<_, _>>(),
            memory_limit: resources.memory,
            cpus: cpus.map(|quota| (quota as u64).div_ceil(period) as u32),
            share_pid: definition.share.contains(&SharedNamespace::Pid),
            outlives_containers: true,
            ..PodConfig::default()
        }
    }

    pub(super) fn graph(&self) -> Graph {
        let containers = lock(&self.containers);
        let edges = containers.iter();
        Graph::new(
            edges
                .map(|(name, c)| (name.clone(), c.definition.depends_on.clone()))
                .collect(),
        )
    }

    pub(super) fn wrong_state(&self, container: &Tracked, operation: &'static str) -> Error {
        Error::WrongState {
            what: "container",
            id: container.name().to_owned(),
            operation,
            state: container.now().status.to_string(),
        }
    }
}
