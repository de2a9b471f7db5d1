//! The records of a pod on disk: enough for any other process to list it, and to remove it
//! completely after a crash.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::SystemTime;

use hypervisor::VmProcess;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::events::Exit;
use crate::host::cgroup::CpuLimits;
use crate::state::Status;
use crate::state_dir;
use crate::state_dir::Stored;
use crate::state_dir::dir::names;
use crate::state_dir::lock::PodLock;
use crate::state_dir::paths::RunPaths;

/// The program that created a pod and alone changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagedBy {
    /// The engine: `rust-kata`.
    #[default]
    RustKata,
    /// containerd, through its shim.
    Containerd,
    /// `containerd-shim-rust-kata-v2 run`.
    Run,
}

impl std::fmt::Display for ManagedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RustKata => "rust-kata",
            Self::Containerd => "containerd",
            Self::Run => "run",
        })
    }
}

/// The request for a pod (`config.json`, written once).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodConfig {
    /// containerd's namespace, or a namespace of the engine.
    pub namespace: String,
    /// The pod's id.
    pub id: String,
    /// The program that manages it. Written under the key of earlier builds: to these, a
    /// pod without that key is the engine's.
    #[serde(default, rename = "front_door", alias = "managed_by")]
    pub managed_by: ManagedBy,
    /// The address on which its owner serves the task API; empty if it does not.
    #[serde(skip)]
    pub address: String,
    /// The network namespace of the pod's processes.
    pub netns: Option<PathBuf>,
    /// The host name in the pod's UTS namespace.
    pub hostname: Option<String>,
    /// The sysctls of the pod's namespaces.
    pub sysctls: HashMap<String, String>,
    /// The host cgroup of the pod's processes, as in the OCI spec.
    pub cgroups_path: Option<PathBuf>,
    /// Annotations of the first container.
    pub labels: HashMap<String, String>,
    /// The memory limit of the containers in bytes, which is added to the VM's own memory.
    pub memory_limit: Option<u64>,
    /// The CPU limit of the containers.
    pub cpus: Option<u32>,
    /// Limits of its cgroup.
    #[serde(default)]
    pub cpu_limits: CpuLimits,
    /// Whether containers that join a pid namespace share the pod's.
    #[serde(default)]
    pub share_pid: bool,
    /// Whether its VM stays up when the last container has ended.
    #[serde(default)]
    pub outlives_containers: bool,
}

/// The CRI's annotations for the size of a sandbox (containerd `pkg/cri/annotations`).
const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const SANDBOX_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const SANDBOX_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

impl PodConfig {
    /// The pod for its first container's spec: the CRI's sandbox, or a container that is alone
    /// in its pod.
    pub fn from_spec(namespace: &str, id: &str, address: &str, spec: &Spec) -> Self {
        let labels = spec.annotations().clone().unwrap_or_default();
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|l| l.resources().as_ref());
        let number = |key: &str| labels.get(key).and_then(|v| v.parse::<i64>().ok());

        let own_memory = resources
            .and_then(|r| r.memory().as_ref())
            .and_then(|m| m.limit());
        let memory = number(SANDBOX_MEMORY).or(own_memory).filter(|n| *n > 0);
        let cpu = resources.and_then(|r| r.cpu().as_ref());
        let quota = number(SANDBOX_CPU_QUOTA).or(cpu.and_then(|c| c.quota()));
        let period = number(SANDBOX_CPU_PERIOD).or(cpu.and_then(|c| c.period()).map(|p| p as i64));
        let cpus = match (quota, period) {
            (Some(quota @ 1..), Some(period @ 1..)) => u32::try_from((quota - 1) / period + 1).ok(),
            _ => None,
        };
        let netns = linux
            .and_then(|l| l.namespaces().as_ref())
            .into_iter()
            .flatten()
            .find(|n| n.typ() == LinuxNamespaceType::Network)
            .and_then(|n| n.path().clone());
        Self {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            managed_by: ManagedBy::Containerd,
            address: address.to_owned(),
            netns,
            hostname: spec.hostname().clone(),
            sysctls: HashMap::new(),
            cgroups_path: linux.and_then(|l| l.cgroups_path().clone()),
            labels,
            memory_limit: memory.map(|n| n as u64),
            cpus,
            cpu_limits: CpuLimits::default(),
            share_pid: false,
            outlives_containers: false,
        }
    }
}

/// The status of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodRunStatus {
    /// It is being made.
    Creating,
    /// Its VM runs.
    Running,
    /// Its VM has ended.
    Stopped,
}

/// The state of a pod (`state.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRunState {
    /// Its status.
    pub status: PodRunStatus,
    /// The hypervisor and the reason for its choice.
    pub hypervisor: String,
    /// The host processes of the VM.
    pub processes: Vec<VmProcess>,
    /// How the VM ended, if it has.
    pub reason: Option<String>,
    /// The host's cgroup directories that were made for the pod.
    pub cgroups: Vec<PathBuf>,
}

/// The record of a container (`containers/<id>/config.json`, written once).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Its OCI bundle.
    pub bundle: PathBuf,
    /// Whether it is the pod's sandbox, or alone in its pod.
    pub sandbox: bool,
    /// The time of its creation.
    pub created: SystemTime,
}

/// The state of a container (`containers/<id>/state.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRunState {
    /// Its init.
    pub init: ProcessRecord,
    /// The init's pid in the guest.
    pub guest_pid: u32,
    /// Its further processes, by exec id.
    pub execs: BTreeMap<String, ProcessRecord>,
}

/// A process in a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its status.
    pub status: Status,
    /// The pid of its pid proxy on the host; 0 if it has none yet.
    pub pid: u32,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

impl Stored for PodConfig {}
impl Stored for PodRunState {}
impl Stored for ContainerRecord {}
impl Stored for ContainerRunState {}

/// Writes a file of the pod under its lock.
pub(crate) fn save<T: Stored>(dir: &RunPaths, path: &std::path::Path, value: &T) -> Result<()> {
    let _lock = PodLock::exclusive(dir)?;
    state_dir::write(path, value)
}

/// The ids of the containers that have a directory, sorted.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the directory that cannot be read.
pub(crate) fn container_ids(dir: &RunPaths) -> Result<Vec<String>> {
    names(&dir.containers())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_pod_is_sized_by_its_sandbox_or_its_only_container() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "hostname": "web",
            "linux": {
                "resources": {"memory": {"limit": 1048576}, "cpu": {"quota": 150000, "period": 100000}},
                "namespaces": [{"type": "network", "path": "/var/run/netns/x"}]}
        }))
        .unwrap();
        let lone = PodConfig::from_spec("default", "a", "", &spec);
        assert_eq!((lone.memory_limit, lone.cpus), (Some(1 << 20), Some(2)));
        assert_eq!(
            lone.netns.as_deref(),
            Some(std::path::Path::new("/var/run/netns/x"))
        );

        let mut cri = spec.clone();
        cri.set_annotations(Some(HashMap::from([
            (SANDBOX_MEMORY.to_owned(), "268435456".to_owned()),
            (SANDBOX_CPU_QUOTA.to_owned(), "-1".to_owned()),
        ])));
        let sandbox = PodConfig::from_spec("k8s.io", "a", "", &cri);
        assert_eq!(
            (sandbox.memory_limit, sandbox.cpus),
            (Some(256 << 20), None)
        );
    }

    #[test]
    fn the_manager_of_a_pod_is_read_by_either_key_and_written_by_the_old_one() {
        let with = |key: &str| {
            let mut config = serde_json::to_value(PodConfig::default()).unwrap();
            let fields = config.as_object_mut().unwrap();
            assert_eq!(fields.remove("front_door").unwrap(), "rust-kata");
            fields.insert(key.to_owned(), "containerd".into());
            serde_json::from_value::<PodConfig>(config).unwrap()
        };
        for key in ["front_door", "managed_by"] {
            assert_eq!(with(key).managed_by, ManagedBy::Containerd, "{key}");
        }
    }

    fn pod(text: &str) -> PodConfig {
        PodConfig::from_spec("ns", "a", "/address", &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn cpus_are_whole_ones_and_only_of_a_quota() {
        for (cpu, cpus) in [
            (r#"{"quota": 100000, "period": 100000}"#, Some(1)),
            (r#"{"quota": 100001, "period": 100000}"#, Some(2)),
            (r#"{"quota": 1, "period": 100000}"#, Some(1)),
            (r#"{"quota": 400000, "period": 50000}"#, Some(8)),
            (r#"{"quota": 0, "period": 100000}"#, None),
            (r#"{"quota": -1, "period": 100000}"#, None),
            (r#"{"quota": 100000, "period": 0}"#, None),
            (r#"{"quota": 100000}"#, None),
            (r#"{"period": 100000}"#, None),
            (r#"{"quota": 9223372036854775807, "period": 1}"#, None),
        ] {
            let text =
                format!(r#"{{"ociVersion": "1.0.2", "linux": {{"resources": {{"cpu": {cpu}}}}}}}"#);
            assert_eq!(pod(&text).cpus, cpus, "{cpu}");
        }
    }

    #[test]
    fn memory_is_the_sandboxs_or_the_containers_and_no_number_is_no_limit() {
        for (annotation, own, limit) in [
            (Some("1048576"), Some(7), Some(1 << 20)),
            (Some("0"), Some(7), None),
            (Some("-1"), Some(7), None),
            (Some("much"), Some(7), Some(7)),
            (None, Some(7), Some(7)),
            (None, Some(0), None),
            (None, Some(-1), None),
            (None, None, None),
        ] {
            let mut spec: Spec = serde_json::from_value(serde_json::json!({
                "ociVersion": "1.0.2",
                "linux": {"resources": {"memory": {"limit": own}}}
            }))
            .unwrap();
            let annotation = annotation.map(|text| (SANDBOX_MEMORY.to_owned(), text.to_owned()));
            spec.set_annotations(Some(annotation.into_iter().collect()));
            let found = PodConfig::from_spec("ns", "a", "", &spec).memory_limit;
            assert_eq!(found, limit, "{:?} {own:?}", spec.annotations());
        }
    }

    #[test]
    fn the_period_of_the_sandbox_goes_with_its_quota() {
        let text = r#"{
            "ociVersion": "1.0.2",
            "annotations": {
                "io.kubernetes.cri.sandbox-cpu-quota": "30000",
                "io.kubernetes.cri.sandbox-cpu-period": "10000"},
            "linux": {"resources": {"cpu": {"quota": 10, "period": 10}}}}"#;
        assert_eq!(pod(text).cpus, Some(3));
    }

    #[test]
    fn the_rest_of_a_pod_is_the_specs() {
        let whole = pod(
            r#"{"ociVersion": "1.0.2", "hostname": "h", "annotations": {"a": "b"},
                "linux": {"cgroupsPath": "/pods/a", "namespaces": [
                    {"type": "pid", "path": "/proc/1/ns/pid"},
                    {"type": "network", "path": "/run/netns/n"},
                    {"type": "ipc", "path": "/proc/1/ns/ipc"}]}}"#,
        );
        let expected = PodConfig {
            namespace: "ns".into(),
            id: "a".into(),
            managed_by: ManagedBy::Containerd,
            address: "/address".into(),
            netns: Some("/run/netns/n".into()),
            hostname: Some("h".into()),
            cgroups_path: Some("/pods/a".into()),
            labels: HashMap::from([("a".to_owned(), "b".to_owned())]),
            ..PodConfig::default()
        };
        assert_eq!(whole, expected);
        let own = pod(r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "network"}]}}"#);
        assert_eq!(own.netns, None);
    }

    #[test]
    fn managers_are_shown_as_they_are_written() {
        for (manager, name) in [
            (ManagedBy::RustKata, "rust-kata"),
            (ManagedBy::Containerd, "containerd"),
            (ManagedBy::Run, "run"),
        ] {
            assert_eq!(manager.to_string(), name);
            assert_eq!(serde_json::to_value(manager).unwrap(), name);
        }
    }

    #[test]
    fn containers_that_cannot_be_listed_are_not_none() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunPaths::new(root.path(), "ns", "p").unwrap();
        assert!(
            container_ids(&dir).unwrap().is_empty(),
            "there are none yet"
        );
        for id in ["b", "c", "a"] {
            std::fs::create_dir_all(dir.container(id)).unwrap();
        }
        assert_eq!(container_ids(&dir).unwrap(), ["a", "b", "c"]);

        std::fs::remove_dir_all(dir.containers()).unwrap();
        std::fs::write(dir.containers(), "").unwrap();
        match container_ids(&dir) {
            Err(Error::Io { path, .. }) => assert_eq!(path, dir.containers()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_are_saved_under_the_lock_of_a_pod_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunPaths::new(root.path(), "ns", "p").unwrap();
        std::fs::create_dir_all(dir.path()).unwrap();
        let pod = PodConfig::default();
        let gone = save(&dir, &dir.config(), &pod);
        assert!(matches!(gone, Err(Error::NotFound { what: "pod", .. })));
        assert!(!dir.config().exists());

        state_dir::lock::create(&dir).unwrap();
        save(&dir, &dir.config(), &pod).unwrap();
        assert_eq!(state_dir::read::<PodConfig>(&dir.config()).unwrap(), pod);
    }
}
