//! The runtime: makes pods, finds them again, removes what they left.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hypervisor::text::one_line;
use hypervisor::{Share, VmSpec};
use protos::agent as api;
use protos::{AGENT_PORT, GUEST_SHARE, SHARE_TAG};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::events::{Event, Exit};
use crate::host::cgroup::HostCgroup;
use crate::pod::recovery::{self, Found};
use crate::pod::resize::Bounds;
use crate::pod::share::ShareTree;
use crate::pod::{Booted, Pod};
use crate::state_dir::lock::{self, Guarded, Owner, OwnerLock};
use crate::state_dir::paths::PodDir;
use crate::state_dir::private;
use crate::state_dir::record::{self, PodConfig, PodState, PodStatus};
use crate::stdio::Streams;

/// As much of what the guest says it runs as is told.
const MAX_VERSION: usize = 128;

/// Told of each step of a pod's start as it ends.
pub type Progress = Option<Arc<dyn Fn(&str) + Send + Sync>>;

/// Makes and finds pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    config: Arc<Config>,
}

impl Runtime {
    /// A runtime with this configuration.
    ///
    /// # Errors
    /// [`Error::Io`] if the state directory cannot be made.
    pub fn new(mut config: Config) -> Result<Self> {
        private::make_root(&config.root)?;
        // As the kernel shows it among the mounts.
        config.root = fs::canonicalize(&config.root).on("resolve", &config.root)?;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes a pod and boots its VM; this process owns it from now on. What
    /// happens to it comes through the receiver, in order.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the id is taken by a pod whose owner lives;
    /// otherwise whatever went wrong, with nothing left of the pod.
    pub async fn create_pod(
        &self,
        spec: PodConfig,
        progress: Progress,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<Event>)> {
        let runtime = self.clone();
        // To its end, even if the caller goes away.
        tokio::spawn(async move { runtime.create(spec, progress).await })
            .await
            .map_err(|e| Error::Internal(format!("Making the pod broke off: {e}")))?
    }

    async fn create(
        &self,
        spec: PodConfig,
        progress: Progress,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<Event>)> {
        let config = (*self.config).clone().with_annotations(&spec.labels)?;
        if let Some(netns) = &spec.netns {
            fs::metadata(netns).map_err(|e| {
                Error::Invalid(format!("Network namespace {}: {e}", netns.display()))
            })?;
        }
        let dir = PodDir::new(&config.root, &spec.namespace, &spec.id)?;
        let owner = self.claim(&dir, &spec).await?;
        let share = ShareTree::new(dir.shared());
        let mut cgroup = HostCgroup::plan(spec.cgroups_path.as_deref(), &spec.cpu_limits);
        match boot(&config, &spec, &dir, &share, &mut cgroup, &progress).await {
            Ok(booted) => Ok(Pod::new(dir, spec, owner, booted)),
            Err(e) => {
                let remove = || recovery::remove(&dir, &share, cgroup.new_dirs());
                if let Err(left) = blocking(remove) {
                    log::warn!("Pod {}: {left}", dir.pod());
                }
                Err(e)
            }
        }
    }

    /// Takes the pod's directory. One whose owner is dead is removed first.
    async fn claim(&self, dir: &PodDir, spec: &PodConfig) -> Result<OwnerLock> {
        if dir.path().exists() {
            match self.reap(&spec.namespace, &spec.id, false).await {
                Err(Error::WrongState { .. }) => {
                    return Err(Error::AlreadyExists {
                        what: "pod",
                        id: spec.id.clone(),
                    });
                }
                other => drop(other?),
            }
        }
        let path = dir.path();
        private::make(&dir.namespace_dir())?;
        private::make(&path)?;
        let pid = std::process::id();
        let owner = Owner {
            pid,
            start_time: hypervisor::start_time(pid).on("read", "/proc/self/stat")?,
            address: spec.address.clone(),
        };
        lock::create(dir)?;
        let held = OwnerLock::take(dir, &owner)?;
        record::save(dir, &dir.config(), spec)?;
        Ok(held)
    }

    /// Where the owner of a pod that is none of the engine's is to serve
    /// `management.proto`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad id.
    pub fn management_of(&self, pod: &PodConfig) -> Result<PathBuf> {
        let dir = PodDir::new(&self.config.root, &pod.namespace, &pod.id)?;
        Ok(dir.management())
    }

    /// Looks for the pod that holds a container. Never waits for a VM.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad id; [`Error::Io`].
    pub fn find_container(&self, namespace: &str, id: &str) -> Result<Option<Found>> {
        recovery::find_container(&self.config.root, namespace, id)
    }

    /// Looks for a pod. Never waits for a VM.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad id; [`Error::Io`].
    pub fn find_pod(&self, namespace: &str, pod: &str) -> Result<Option<Found>> {
        recovery::find_pod(&self.config.root, namespace, pod)
    }

    /// The pods of a namespace whose owners have died: to be reaped.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad namespace; [`Error::Io`].
    pub fn abandoned(&self, namespace: &str) -> Result<Vec<String>> {
        recovery::abandoned(&self.config.root, namespace)
    }

    /// Removes all that a pod left: processes, mounts, cgroups, sockets, its
    /// directory. Idempotent; several processes may do it at once. Returns how
    /// its containers ended: as on record, or 137.
    ///
    /// # Errors
    /// [`Error::WrongState`] if its owner lives, unless `force`: then the owner
    /// is killed first.
    pub async fn reap(
        &self,
        namespace: &str,
        pod: &str,
        force: bool,
    ) -> Result<HashMap<String, Exit>> {
        let (root, namespace, pod) = (
            self.config.root.clone(),
            namespace.to_owned(),
            pod.to_owned(),
        );
        tokio::task::spawn_blocking(move || recovery::reap(&root, &namespace, &pod, force))
            .await
            .map_err(|e| Error::Internal(format!("Removing a pod broke off: {e}")))?
    }
}

async fn boot(
    config: &Config,
    spec: &PodConfig,
    dir: &PodDir,
    share: &ShareTree,
    cgroup: &mut HostCgroup,
    progress: &Progress,
) -> Result<Booted> {
    let step = |name: &str| {
        if let Some(tell) = progress {
            tell(name);
        }
    };
    // Intent: whatever of this is found later may be removed.
    let mut state = PodState {
        status: PodStatus::Creating,
        hypervisor: String::new(),
        processes: Vec::new(),
        reason: None,
        cgroups: cgroup.new_dirs().to_vec(),
    };
    record::save(dir, &dir.state(), &state)?;

    let sockets = dir.sockets();
    blocking(|| {
        private::make(&sockets)?;
        private::make(&dir.containers())?;
        cgroup.create(|dirs| {
            let state = PodState {
                cgroups: dirs.to_vec(),
                ..state.clone()
            };
            record::save(dir, &dir.state(), &state)
        })?;
        share.create()
    })?;
    state.cgroups = cgroup.new_dirs().to_vec();
    // Listening before the guest boots: its call is the sign that it is ready.
    let agent_port = listen(dir, AGENT_PORT)?;

    let mut vm_spec = vm_spec(config, spec, dir);
    vm_spec.cgroup = cgroup.birthplace().map(Path::to_owned);
    let vm_spec = vm_spec.validate()?;
    let choice = hypervisor::select(&vm_spec)?;
    step(&format!("hypervisor: {}", choice.reason));
    let bounds = Bounds::of(&vm_spec, config.memory_mib, choice.vmm.can_resize());
    let can_attach = choice.vmm.can_attach();
    let vm = choice.vmm.create(vm_spec).await?;
    state.hypervisor = choice.reason;
    state.processes = vm.processes();
    record::save(dir, &dir.state(), &state)?;
    blocking(|| state.processes.iter().for_each(|p| cgroup.add(p.pid)));
    step("VM processes started");

    let started = async {
        vm.boot().await?;
        let connection = tokio::select! {
            accepted = agent_port.accept() => accepted.on("accept the agent on", dir.vsock())?.0,
            exit = vm.wait() => {
                return Err(Error::VmGone { pod: spec.id.clone(), reason: format!("{exit}{}", console_tail(dir)) });
            }
            () = tokio::time::sleep(config.timeouts.boot) => {
                return Err(Error::AgentTimeout { call: "boot", seconds: config.timeouts.boot.as_secs() });
            }
        };
        // As long as no other program runs in the guest.
        let streams = Streams::new(&dir.vsock())?;
        if progress.is_some() {
            step(&guest_ready(vm.boot_mark().await.ok().flatten()));
        }
        let agent = Agent::new(connection, config.timeouts);
        let info = tokio::select! {
            info = agent.create_pod(create_pod_request(spec)) => info?,
            exit = vm.wait() => {
                return Err(Error::VmGone { pod: spec.id.clone(), reason: format!("{exit}{}", console_tail(dir)) });
            }
        };
        step(&format!(
            "pod set up (guest kernel {}, agent {})",
            one_line(&info.kernel_release, MAX_VERSION),
            one_line(&info.agent_version, MAX_VERSION)
        ));
        state.status = PodStatus::Running;
        record::save(dir, &dir.state(), &state)?;
        Ok((agent, streams))
    };
    match started.await {
        Ok((agent, streams)) => Ok(Booted {
            vm,
            bounds,
            can_attach,
            agent,
            streams,
            cgroup: cgroup.clone(),
            state,
        }),
        Err(e) => {
            vm.kill().await;
            Err(e)
        }
    }
}

/// The step at which the agent has called, with the moment at which it began to run.
fn guest_ready(boot_mark: Option<Duration>) -> String {
    match boot_mark {
        Some(mark) => format!(
            "guest ready (its agent ran {} ms after the VMM's start)",
            mark.as_millis()
        ),
        None => "guest ready".into(),
    }
}

fn listen(dir: &PodDir, port: u32) -> Result<UnixListener> {
    let path = format!("{}_{port}", dir.vsock().display());
    UnixListener::bind(&path).on("listen on", &path)
}

fn vm_spec(config: &Config, spec: &PodConfig, dir: &PodDir) -> VmSpec {
    const MIB: u64 = 1 << 20;
    let limit = spec.memory_limit.unwrap_or(0).div_ceil(MIB);
    let host = host_memory_mib();
    // A limit beyond the host's memory is no limit, and no reason to refuse.
    let memory_mib = u64::from(config.memory_mib) + if limit < host { limit } else { 0 };
    let memory_mib = u32::try_from(memory_mib).unwrap_or(u32::MAX);
    let host_cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let vcpus = config.vcpus.max(spec.cpus.unwrap_or(0).min(host_cpus));
    VmSpec {
        id: spec.id.clone(),
        dir: dir.vm(),
        kernel: config.kernel.clone(),
        initrd: config.initrd.clone(),
        cmdline: config.kernel_args.clone(),
        vcpus,
        max_vcpus: vcpus.max(config.max_vcpus),
        memory_mib,
        // Linux plugs memory in blocks of 128 MiB.
        hotplug_mib: config.max_memory_mib.saturating_sub(memory_mib) / 128 * 128,
        hugepages: config.hugepages,
        netns: spec.netns.clone(),
        cgroup: None,
        share: Share {
            tag: SHARE_TAG.to_owned(),
            dir: dir.shared(),
            files: config.max_shared_files,
        },
        vsock_uds: dir.vsock(),
        hypervisor: config.hypervisor,
        vmm_binary: config.vmm.clone().unwrap_or_else(|| "rust-kata-vmm".into()),
        qemu_binary: config.qemu.clone(),
        debug: config.debug,
    }
}

/// `MemTotal` of proc(5), in MiB.
fn host_memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn create_pod_request(spec: &PodConfig) -> api::CreatePodRequest {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    api::CreatePodRequest {
        pod_id: spec.id.clone(),
        hostname: spec.hostname.clone().unwrap_or_else(host_name),
        storages: vec![api::Storage {
            fstype: "virtiofs".into(),
            source: SHARE_TAG.into(),
            target: GUEST_SHARE.into(),
            options: Vec::new(),
            ..Default::default()
        }],
        sysctls: spec.sysctls.clone(),
        realtime_ns: now.as_nanos() as u64,
        share_pid: spec.share_pid,
        ..Default::default()
    }
}

/// The host's name, which a new UTS namespace begins with (uts_namespaces(7)); empty if
/// it cannot be told.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.into_string().unwrap_or_default()
}

/// The end of the guest's console: why it does not do what it should.
pub(crate) fn console_tail(dir: &PodDir) -> String {
    let text = fs::read(Path::new(&dir.vm()).join("console.log")).unwrap_or_default();
    let end = last_words(&text);
    if end.is_empty() {
        end
    } else {
        format!("; the guest's console ends with:\n{end}")
    }
}

/// The last lines of a console; if its kernel has failed, all that it says of that.
fn last_words(console: &[u8]) -> String {
    /// Of a kernel that has not failed.
    const USUAL: usize = 600;
    const MOST: usize = 4096;
    /// What Linux on x86 begins its report with (`arch/x86/mm/fault.c`,
    /// `arch/x86/kernel/traps.c`, `kernel/panic.c`).
    const FAILURES: [&str; 4] = [
        "BUG: ",
        "Oops: ",
        "general protection fault",
        "Kernel panic",
    ];
    let usual = console.len().saturating_sub(USUAL);
    let find = |words: &str| {
        let mut places = console.windows(words.len());
        places.position(|place| place == words.as_bytes())
    };
    let failure = FAILURES.into_iter().filter_map(find).min();
    let from = failure.map_or(usual, |at| at.min(usual));
    let to = console.len().min(from + MOST);
    let end = String::from_utf8_lossy(&console[from..to]);
    hypervisor::text::lines(end.replace('\r', "").trim(), MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_guests_kernel_is_told_from_its_beginning() {
        let boot = "[    0.1] all is well\n".repeat(1000);
        assert_eq!(last_words(b""), "");
        assert!((500..=600).contains(&last_words(boot.as_bytes()).len()));
        let registers = "R10: ffffffff81c060d0\n".repeat(50);
        let failed = format!("{boot}BUG: unable to handle page fault\n{registers}Kernel panic\n");
        let told = last_words(failed.as_bytes());
        assert!(
            told.starts_with("BUG: ") && told.ends_with("Kernel panic"),
            "{told}"
        );
        assert_eq!(last_words(b"one\r\ntwo\r\n"), "one\ntwo");
        // A guest that goes on failing fills no message.
        let endless = failed.repeat(100);
        assert!(last_words(endless.as_bytes()).len() <= 4096);
    }
}
