//! Tests of pods with a fake VM and agent (`guest`). The host's side of a container, such as
//! mounts and pid proxies, is real.

mod create;
mod exec;
pub(crate) mod guest;
mod life;
mod run;
mod vm;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use serde_json::json;
use test_support::{Reason, require, root};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::guest::Guest;
use super::*;
use crate::agent::Agent;
use crate::config::Timeouts;
use crate::container::config::ContainerConfig;
use crate::error::ErrorKind;
use crate::events::PodEvent;
use crate::host::mount::unmount_below;
use crate::state::Status;
use crate::state_dir::lock::OwnerProcess;
use crate::state_dir::record::{self, ContainerRunState, PodRunState, PodRunStatus};
use crate::stdio::ProcessIo;

/// The deadline for operations that finish without waiting for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pod, its guest, and the directory with all their files.
pub(crate) struct Bed {
    pub(crate) root: tempfile::TempDir,
    pub(crate) pod: Arc<Pod>,
    pub(crate) guest: Arc<Guest>,
    events: mpsc::UnboundedReceiver<PodEvent>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        unmount_below(self.root.path()).unwrap();
    }
}

impl Bed {
    pub(crate) async fn new() -> Result<Self, Reason> {
        Self::with(Timeouts::default(), |_| ()).await
    }

    pub(crate) async fn with(
        timeouts: Timeouts,
        change: impl FnOnce(&mut PodConfig),
    ) -> Result<Self, Reason> {
        root()?;
        let root = tempfile::tempdir().unwrap();
        let mut spec = PodConfig {
            namespace: "ns".into(),
            id: "pod".into(),
            ..PodConfig::default()
        };
        change(&mut spec);
        let dir = RunPaths::new(&root.path().join("run"), &spec.namespace, &spec.id).unwrap();
        for made in [dir.path(), dir.sockets(), dir.shared()] {
            fs::create_dir_all(made).unwrap();
        }
        crate::state_dir::lock::create(&dir).unwrap();
        let process = OwnerProcess {
            pid: std::process::id(),
            start_time: 1,
            address: String::new(),
        };
        let owner = OwnerLock::take(&dir, &process).unwrap();
        ShareTree::new(dir.shared()).create().unwrap();
        let (guest, connection) = Guest::start(&dir.vsock()).await;
        let state = PodRunState {
            status: PodRunStatus::Running,
            hypervisor: "a stand-in".into(),
            processes: Vec::new(),
            reason: None,
            cgroups: Vec::new(),
        };
        record::save(&dir, &dir.state(), &state).unwrap();
        let agent = Agent::new(connection, timeouts);
        let vm = Box::new(guest.vm());
        let booted = Booted {
            guest: GuestVm::new(dir.clone(), vm, agent, true, state),
            bounds: Bounds {
                vcpus: 1,
                max_vcpus: 4,
                memory_mib: 256,
                hotplug_mib: 1024,
                own_memory_mib: 256,
            },
            streams: Streams::new(&dir.vsock()).unwrap(),
            cgroup: HostCgroup::default(),
        };
        let (pod, events) = Pod::new(dir, spec, owner, booted);
        Ok(Self {
            root,
            pod,
            guest,
            events,
        })
    }

    /// Takes the receiver of the pod's events.
    pub(crate) fn take_events(&mut self) -> mpsc::UnboundedReceiver<PodEvent> {
        let (_, closed) = mpsc::unbounded_channel();
        std::mem::replace(&mut self.events, closed)
    }

    /// A container with a bundle that holds its root file system, and no `config.json`.
    fn config(&self, id: &str) -> ContainerConfig {
        let bundle = self.root.path().join("bundles").join(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        ContainerConfig {
            id: id.to_owned(),
            spec: spec(json!({})),
            bundle,
            rootfs: Vec::new(),
            io: ProcessIo::default(),
            sandbox: id == "sandbox",
        }
    }

    /// Starts a container. Skips the events of its start.
    pub(crate) async fn running(&mut self, id: &str) {
        let config = self.config(id);
        self.pod.create_container(config).await.unwrap();
        self.pod.start(id).await.unwrap();
        assert!(matches!(self.event().await, PodEvent::Created { .. }));
        assert!(matches!(self.event().await, PodEvent::Started { .. }));
        self.guest.heard();
    }

    /// Waits for the next event.
    async fn event(&mut self) -> PodEvent {
        let next = timeout(PATIENCE, self.events.recv()).await;
        next.expect("an event comes").expect("the pod is there")
    }

    /// Checks that the next event is the end of this process, with this code.
    #[track_caller]
    fn ends(
        &mut self,
        container: &'static str,
        exec: Option<&'static str>,
        code: u32,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let event = self.event().await;
            let PodEvent::Exited {
                container: of,
                exec: of_exec,
                exit,
                ..
            } = event
            else {
                panic!("{place}: {event:?}");
            };
            let found = (&*of, of_exec.as_deref(), exit.status);
            assert_eq!(found, (container, exec, code), "{place}");
        }
    }

    fn status(&self, container: &str, exec: Option<&str>) -> Status {
        self.pod.state(container, exec).unwrap().status
    }

    /// Reads the state of a container on disk.
    fn saved(&self, container: &str) -> ContainerRunState {
        let dir = self.pod.dir.container(container);
        crate::state_dir::read(&dir.join("state.json")).unwrap()
    }

    fn has_no_traces_of(&self, container: &str) {
        let found = self.pod.state(container, None);
        assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
        let dir = &self.pod.dir;
        for path in [dir.container(container), dir.shared().join(container)] {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

/// A spec with additions.
fn spec(more: serde_json::Value) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": namespaces(&["pid"])}
    });
    let fields = spec.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

/// The namespaces of a container: those that each container has, and `further` ones.
fn namespaces(further: &[&str]) -> serde_json::Value {
    let each = ["network", "ipc", "uts", "mount"];
    let all = each.iter().chain(further);
    all.map(|kind| json!({"type": kind})).collect()
}

/// Short deadlines, for tests in which the guest does not answer.
fn short() -> Timeouts {
    let short = Duration::from_secs(2);
    Timeouts {
        boot: short,
        create: short,
        call: short,
    }
}
