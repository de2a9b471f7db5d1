//! Booting a pod's VM, until its agent has set up the pod.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hypervisor::text::one_line;
use hypervisor::{Share, VmSpec};
use protos::agent as api;
use protos::{AGENT_PORT, GUEST_SHARE, SHARE_TAG};
use tokio::net::UnixListener;

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::host::cgroup::HostCgroup;
use crate::pod::Booted;
use crate::pod::console::console_tail;
use crate::pod::resize::Bounds;
use crate::pod::share::ShareTree;
use crate::pod::vm::GuestVm;
use crate::state_dir::paths::RunPaths;
use crate::state_dir::private;
use crate::state_dir::record::{self, PodConfig, PodRunState, PodRunStatus};
use crate::stdio::Streams;

/// How many bytes of the guest's version are logged.
const MAX_VERSION: usize = 128;

/// A function that is called at the end of each step of a pod's start.
pub type BootProgress = Option<Arc<dyn Fn(&str) + Send + Sync>>;

/// Boots the VM of a pod whose directory this process has claimed.
pub(crate) async fn boot(
    config: &Config,
    spec: &PodConfig,
    dir: &RunPaths,
    share: &ShareTree,
    cgroup: &mut HostCgroup,
    progress: &BootProgress,
) -> Result<Booted> {
    let step = |name: &str| {
        if let Some(report) = progress {
            report(name);
        }
    };
    // Intent: everything that is recorded here may be removed by others.
    let mut state = PodRunState {
        status: PodRunStatus::Creating,
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
            let state = PodRunState {
                cgroups: dirs.to_vec(),
                ..state.clone()
            };
            record::save(dir, &dir.state(), &state)
        })?;
        share.create()
    })?;
    state.cgroups = cgroup.new_dirs().to_vec();
    // This listens before the guest boots: the agent's call shows that it is ready.
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
        // Found while only the agent runs in the guest.
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
        state.status = PodRunStatus::Running;
        record::save(dir, &dir.state(), &state)?;
        Ok((agent, streams))
    };
    match started.await {
        Ok((agent, streams)) => Ok(Booted {
            guest: GuestVm::new(dir.clone(), vm, agent, can_attach, state),
            bounds,
            streams,
            cgroup: cgroup.clone(),
        }),
        Err(e) => {
            vm.kill().await;
            Err(e)
        }
    }
}

/// The name of the step at which the agent calls, with the time at which it began to run.
fn guest_ready(boot_mark: Option<Duration>) -> String {
    match boot_mark {
        Some(mark) => format!(
            "guest ready (its agent ran {} ms after the VMM's start)",
            mark.as_millis()
        ),
        None => "guest ready".into(),
    }
}

fn listen(dir: &RunPaths, port: u32) -> Result<UnixListener> {
    let path = format!("{}_{port}", dir.vsock().display());
    UnixListener::bind(&path).on("listen on", &path)
}

fn vm_spec(config: &Config, spec: &PodConfig, dir: &RunPaths) -> VmSpec {
    const MIB: u64 = 1 << 20;
    let limit = spec.memory_limit.unwrap_or(0).div_ceil(MIB);
    let host = host_memory_mib();
    // A limit above the host's memory has no effect, and is not refused.
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

/// The host's name, which a new UTS namespace starts with (uts_namespaces(7)); empty if it is
/// unknown.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.into_string().unwrap_or_default()
}
