//! The definitions of pods and containers: written once, when they are created, and kept
//! through stops, crashes and reboots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::config::CgroupManager;
use crate::engine::restart::RestartPolicy;
use crate::error::{Error, Result};
use crate::host::cgroup::{CpuLimits, is_cpu_list, relative_path};
use crate::state_dir::Stored;
use crate::state_dir::id::check_id;

impl Stored for PodDefinition {}
impl Stored for ContainerDefinition {}

/// A namespace that the containers of a pod may share (namespaces(7)). Each container always
/// has its own mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedNamespace {
    /// The network of the VM. It is always shared: a pod has one network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The host name.
    Uts,
    /// The processes: each container sees those of all.
    Pid,
}

/// What happens to the VM when the last container has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitPolicy {
    /// A pod with an infra container stays up.
    #[default]
    Continue,
    /// The pod is stopped.
    Stop,
}

/// Limits of a pod as a whole, as in OCI `LinuxResources`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// CPU time in microseconds per period; `None`: no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds; `None`: 100,000.
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262,144.
    pub cpu_shares: Option<u64>,
    /// CPUs of the host that the VM may run on, as in `0-3,7`.
    pub cpuset: Option<String>,
    /// Memory of all containers together, in bytes.
    pub memory: Option<u64>,
}

impl PodResources {
    /// The limits for its cgroup on the host.
    pub fn cpu_limits(&self) -> CpuLimits {
        CpuLimits {
            quota: self.cpu_quota,
            period: self.cpu_period,
            shares: self.cpu_shares,
            cpuset: self.cpuset.clone(),
        }
    }

    fn check(&self) -> Result<()> {
        // cgroup v1, cpu.shares: MIN_SHARES and MAX_SHARES of the scheduler.
        if let Some(shares) = self.cpu_shares
            && !(2..=262_144).contains(&shares)
        {
            return Err(Error::invalid("CPU shares", shares, "2 to 262144"));
        }
        // The kernel's sched-bwc.rst: 1 ms to 1 s, and a quota of 1 ms at least.
        if let Some(period) = self.cpu_period
            && !(1000..=1_000_000).contains(&period)
        {
            return Err(Error::invalid("CPU period", period, "1000 to 1000000 µs"));
        }
        if let Some(quota) = self.cpu_quota
            && quota < 1000
            && quota != -1
        {
            let expected = "at least 1000 µs, or -1 for no limit";
            return Err(Error::invalid("CPU quota", quota, expected));
        }
        if let Some(cpus) = &self.cpuset
            && !is_cpu_list(cpus)
        {
            return Err(Error::invalid("CPU set", cpus, "a list such as 0-3,7"));
        }
        Ok(())
    }
}

/// A pod, as it was defined (`config.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodDefinition {
    /// The id: 64 hexadecimal digits.
    pub id: String,
    /// The name, unique in its namespace; also the name of its directory.
    pub name: String,
    /// The namespace: separates the pods of different users of the engine.
    pub namespace: String,
    /// The host name; `None`: the pod's name.
    pub hostname: Option<String>,
    /// Labels for users and programs.
    pub labels: BTreeMap<String, String>,
    /// The time of its creation.
    pub created: SystemTime,
    /// The command line that created it; empty if another program did.
    pub create_command: Vec<String>,
    /// The namespaces that its containers share. Needs `infra`.
    pub share: BTreeSet<SharedNamespace>,
    /// Whether an infra container holds the shared namespaces and keeps the pod up without
    /// others. With VMs there is no process for it: the VM is kept running.
    pub infra: bool,
    /// The parent cgroup of the pod's cgroup on the host: a path for cgroupfs, a slice for
    /// systemd.
    pub cgroup_parent: Option<PathBuf>,
    /// Limits of all containers together.
    pub resources: PodResources,
    /// What happens when the last container has ended.
    pub exit_policy: ExitPolicy,
    /// Programs of the host that run at the pod's start and stop.
    pub hooks: super::hooks::PodHooks,
    /// Memory of the VM in MiB, in place of the configured size.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs of the VM, in place of the configured number.
    pub vcpus: Option<u32>,
    /// `auto`, `kvm` or `qemu`, in place of the configured hypervisor.
    pub hypervisor: Option<hypervisor::HypervisorKind>,
    /// Whether `run` made it for one container; it is removed with its last one.
    pub single: bool,
}

impl PodDefinition {
    /// A pod with this name and podman's defaults: an infra container, and shared network, IPC
    /// and UTS namespaces.
    pub fn new(namespace: &str, name: &str) -> Self {
        use SharedNamespace::{Ipc, Net, Uts};
        Self {
            id: crate::state_dir::id::new_id(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            hostname: None,
            labels: BTreeMap::new(),
            created: SystemTime::now(),
            create_command: Vec::new(),
            share: BTreeSet::from([Net, Ipc, Uts]),
            infra: true,
            cgroup_parent: None,
            resources: PodResources::default(),
            exit_policy: ExitPolicy::default(),
            hooks: Default::default(),
            memory_mib: None,
            vcpus: None,
            hypervisor: None,
            single: false,
        }
    }

    /// The host name of the pod; its name, cut to the kernel's limit, if none was given.
    pub fn host_name(&self) -> String {
        let named = self.hostname.as_deref().unwrap_or(&self.name);
        match named.get(..HOST_NAME_MAX) {
            // RFC 1123 has no '-' or '.' at the end.
            Some(cut) if cut.len() < named.len() => cut.trim_end_matches(['-', '.']).to_owned(),
            _ => named.to_owned(),
        }
    }

    /// Its cgroup, as in an OCI spec: `parent/id` for cgroupfs, `slice:rust-kata:id` for systemd.
    pub fn cgroup_path(&self, manager: CgroupManager) -> PathBuf {
        let parent = self.cgroup_parent.as_deref();
        let parent = parent.unwrap_or(manager.default_parent());
        match is_slice(parent) {
            true => format!("{}:rust-kata:{}", parent.display(), self.id).into(),
            false => parent.join(&self.id),
        }
    }

    /// The path of its cgroup below the root of a hierarchy, while its VM runs.
    pub fn cgroup_on_host(&self, manager: CgroupManager) -> PathBuf {
        let relative = relative_path(&self.cgroup_path(manager)).unwrap_or_default();
        Path::new("/").join(relative)
    }

    /// Checks that the parent of its cgroup is one of this manager.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a slice with cgroupfs, or a path with systemd.
    pub fn check_cgroup_manager(&self, manager: CgroupManager) -> Result<()> {
        let Some(parent) = &self.cgroup_parent else {
            return Ok(());
        };
        let expected = match (manager, is_slice(parent)) {
            (CgroupManager::Cgroupfs, true) => {
                "a path, since cgroup_manager is cgroupfs in the configuration"
            }
            (CgroupManager::Systemd, false) => {
                "a slice such as web.slice, since cgroup_manager is systemd in the configuration"
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("cgroup parent", parent.display(), expected))
    }

    /// Checks the definition by itself.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] or another error that names the field.
    pub fn check(&self) -> Result<()> {
        check_id("namespace", &self.namespace)?;
        check_id("pod name", &self.name)?;
        if let Some(hostname) = &self.hostname {
            check_hostname(hostname)?;
        }
        if !self.infra && !self.share.is_empty() {
            let needs = "an infra container: share none, or keep it";
            return Err(Error::requires("sharing namespaces", needs));
        }
        self.resources.check()?;
        if let Some(parent) = &self.cgroup_parent {
            check_cgroup_parent(parent)?;
        }
        Ok(())
    }
}

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootfs {
    /// A directory of the user's; the container writes to it directly.
    Directory(PathBuf),
    /// The layers of an image, below a writable layer of the container's own.
    Image {
        /// The image as the user named it.
        reference: String,
        /// The digest of the image's configuration.
        id: String,
        /// The directories of the unpacked layers, lowest first.
        layers: Vec<PathBuf>,
    },
}

/// A volume of the engine in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// The volume's name.
    pub name: String,
    /// Whether it was made for this container, and is removed with it.
    pub anonymous: bool,
    /// Its path in the container.
    pub target: PathBuf,
    /// Options of the mount, such as `ro`.
    pub options: Vec<String>,
    /// Whether a new volume is filled with the image's files at that path.
    pub copy: bool,
}

/// A container, as it was defined (`containers/<name>/config.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerDefinition {
    /// The id: 64 hexadecimal digits.
    pub id: String,
    /// The name, unique in its pod; also the name of its directory.
    pub name: String,
    /// The time of its creation.
    pub created: SystemTime,
    /// The command line that created it; empty if another program did.
    pub create_command: Vec<String>,
    /// Labels for users and programs.
    pub labels: BTreeMap<String, String>,
    /// Containers of the pod that must run before it is started.
    pub depends_on: BTreeSet<String>,
    /// The source of its files.
    pub rootfs: Rootfs,
    /// Its volumes, mounted in addition to the mounts in `spec`.
    pub volumes: Vec<VolumeUse>,
    /// The settings that the OCI runtime specification defines.
    pub spec: Spec,
    /// Its user as given, to be looked up in the container: `name` or `uid`, either with
    /// `:group`.
    pub user: Option<String>,
    /// Whether its stdin stays open without a client.
    pub stdin_open: bool,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Seconds between the stop signal and SIGKILL; 0: SIGKILL at once.
    pub stop_timeout: u32,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Whether it is removed at its end.
    pub remove_at_exit: bool,
    /// The size in bytes at which a part of its log becomes the older half.
    pub log_size_max: u64,
}

/// The default stop time in seconds, as with podman.
pub const STOP_TIMEOUT: u32 = 10;

/// The default size of a container's log in bytes.
pub const LOG_SIZE_MAX: u64 = 16 << 20;

impl ContainerDefinition {
    /// A container with this name, spec and podman's defaults.
    pub fn new(name: &str, rootfs: Rootfs, spec: Spec) -> Self {
        Self {
            id: crate::state_dir::id::new_id(),
            name: name.to_owned(),
            created: SystemTime::now(),
            create_command: Vec::new(),
            labels: BTreeMap::new(),
            depends_on: BTreeSet::new(),
            rootfs,
            volumes: Vec::new(),
            spec,
            user: None,
            stdin_open: false,
            stop_signal: libc::SIGTERM,
            stop_timeout: STOP_TIMEOUT,
            restart: RestartPolicy::No,
            remove_at_exit: false,
            log_size_max: LOG_SIZE_MAX,
        }
    }

    /// Whether its init has a pty.
    pub fn terminal(&self) -> bool {
        let process = self.spec.process().as_ref();
        process.and_then(|p| p.terminal()).unwrap_or(false)
    }

    /// Its command.
    pub fn command(&self) -> &[String] {
        let process = self.spec.process().as_ref();
        process.and_then(|p| p.args().as_deref()).unwrap_or(&[])
    }

    /// Checks the definition by itself.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] or another error that names the field.
    pub fn check(&self) -> Result<()> {
        check_id("container name", &self.name)?;
        if self.command().is_empty() {
            return Err(Error::NoCommand {
                what: "container",
                id: self.name.clone(),
            });
        }
        if !(1..=64).contains(&self.stop_signal) {
            return Err(Error::invalid("stop signal", self.stop_signal, "1 to 64"));
        }
        if let Rootfs::Directory(path) = &self.rootfs
            && !path.is_dir()
        {
            let error = std::io::ErrorKind::NotADirectory;
            return Err(Error::invalid_path("root file system", path)(error));
        }
        Ok(())
    }
}

/// The kernel's limit for a host name (`__NEW_UTS_LEN`).
const HOST_NAME_MAX: usize = 64;

/// RFC 1123, section 2.1, and the kernel's limit.
fn check_hostname(name: &str) -> Result<()> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() > HOST_NAME_MAX || !name.split('.').all(label) {
        let expected = "up to 64 letters, digits and '-', in parts joined by '.'";
        return Err(Error::invalid("host name", name, expected));
    }
    Ok(())
}

fn is_slice(parent: &Path) -> bool {
    parent.extension().is_some_and(|end| end == "slice")
}

/// A path for cgroupfs, or a slice for systemd: `/pods/web`, `web.slice`.
fn check_cgroup_parent(parent: &Path) -> Result<()> {
    let text = parent.to_string_lossy();
    let bad = |expected: &'static str| Err(Error::invalid("cgroup parent", &text, expected));
    if text.ends_with(".slice") {
        if text.contains('/') {
            return bad("the name of a systemd slice without its path, such as web-backend.slice");
        }
        // systemd.slice(5): dashes nest. A name has no dash at its ends, and no two in a row.
        let stem = text.trim_end_matches(".slice");
        if stem != "-" && (stem.is_empty() || stem.split('-').any(str::is_empty)) {
            return bad(
                "no dashes at the ends of a slice's name, and no two in a row: they nest slices",
            );
        }
        return Ok(());
    }
    if !parent.is_absolute() {
        return bad("a path that starts with /, or a systemd slice that ends in .slice");
    }
    if parent
        .components()
        .any(|part| matches!(part, std::path::Component::ParentDir))
    {
        return bad("a path without ..");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
