//! What is asked of the hypervisor and of the agent for a pod.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use hypervisor::{Share, VmSpec};
use protos::agent as api;
use protos::{GUEST_SHARE, SHARE_TAG};

use crate::config::Config;
use crate::state_dir::paths::RunPaths;
use crate::state_dir::record::PodConfig;

/// The parts of the host's size that bound a VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostSize {
    memory_mib: u64,
    cpus: u32,
}

impl HostSize {
    pub(super) fn read() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            memory_mib: total_mib(&meminfo),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        }
    }
}

/// `MemTotal` of proc(5), in MiB; 0 if it is unknown.
fn total_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// The VM of a pod.
pub(super) fn vm_spec(config: &Config, spec: &PodConfig, dir: &RunPaths, host: HostSize) -> VmSpec {
    const MIB: u64 = 1 << 20;
    let limit = spec.memory_limit.unwrap_or(0).div_ceil(MIB);
    // A limit above the host's memory has no effect, and is not refused.
    let limit = if limit < host.memory_mib { limit } else { 0 };
    let memory_mib = u32::try_from(u64::from(config.memory_mib) + limit).unwrap_or(u32::MAX);
    let vcpus = config.vcpus.max(spec.cpus.unwrap_or(0).min(host.cpus));
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

/// The agent's first request.
pub(super) fn create_pod_request(spec: &PodConfig) -> api::CreatePodRequest {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use hypervisor::HypervisorKind;

    use super::*;

    const HOST: HostSize = HostSize {
        memory_mib: 4096,
        cpus: 4,
    };

    fn dir() -> RunPaths {
        RunPaths::new(Path::new("/r"), "ns", "p").unwrap()
    }

    #[test]
    fn a_vm_is_as_the_configuration_and_the_pod_have_it() {
        let config = Config {
            hypervisor: HypervisorKind::Kvm,
            kernel: "/k".into(),
            initrd: "/i".into(),
            kernel_args: vec!["a=b".into()],
            memory_mib: 300,
            vcpus: 2,
            max_vcpus: 8,
            max_memory_mib: 1000,
            hugepages: true,
            max_shared_files: 77,
            qemu: "/q".into(),
            vmm: Some("/v".into()),
            debug: true,
            ..Config::default()
        };
        let pod = PodConfig {
            id: "p".into(),
            netns: Some("/n".into()),
            memory_limit: Some(100 << 20),
            cpus: Some(3),
            ..PodConfig::default()
        };
        let whole = VmSpec {
            id: "p".into(),
            dir: dir().vm(),
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: vec!["a=b".into()],
            vcpus: 3,
            max_vcpus: 8,
            memory_mib: 400,
            hotplug_mib: 512,
            hugepages: true,
            netns: Some("/n".into()),
            cgroup: None,
            share: Share {
                tag: SHARE_TAG.into(),
                dir: dir().shared(),
                files: 77,
            },
            vsock_uds: dir().vsock(),
            hypervisor: HypervisorKind::Kvm,
            vmm_binary: "/v".into(),
            qemu_binary: "/q".into(),
            debug: true,
        };
        assert_eq!(vm_spec(&config, &pod, &dir(), HOST), whole);

        let usual = vm_spec(&Config::default(), &PodConfig::default(), &dir(), HOST);
        assert_eq!(usual.vmm_binary, Path::new("rust-kata-vmm"));
        assert_eq!((usual.vcpus, usual.max_vcpus), (1, 1));
        assert_eq!((usual.memory_mib, usual.hotplug_mib), (256, 0));
        assert!(!usual.hugepages && !usual.debug);
    }

    #[test]
    fn memory_is_the_vms_own_and_the_limit_within_the_hosts() {
        const MIB: u64 = 1 << 20;
        for (limit, max, memory, hotplug) in [
            (None, 0, 256, 0),
            (Some(1), 0, 257, 0),
            (Some(MIB), 0, 257, 0),
            (Some(MIB + 1), 0, 258, 0),
            (Some(4095 * MIB), 0, 256 + 4095, 0),
            (Some(4096 * MIB), 0, 256, 0),
            (Some(u64::MAX), 0, 256, 0),
            (None, 256 + 127, 256, 0),
            (None, 256 + 128, 256, 128),
            (None, 256 + 255, 256, 128),
            (None, 256 + 256, 256, 256),
            (Some(128 * MIB), 256 + 256, 384, 128),
        ] {
            let config = Config {
                max_memory_mib: max,
                ..Config::default()
            };
            let pod = PodConfig {
                memory_limit: limit,
                ..PodConfig::default()
            };
            let vm = vm_spec(&config, &pod, &dir(), HOST);
            let sizes = (vm.memory_mib, vm.hotplug_mib);
            assert_eq!(sizes, (memory, hotplug), "{limit:?} {max}");
        }
    }

    #[test]
    fn cpus_are_the_larger_number_of_the_two_within_the_hosts() {
        for (least, pods, largest, vcpus, max_vcpus) in [
            (1, None, 0, 1, 1),
            (2, Some(1), 0, 2, 2),
            (1, Some(3), 2, 3, 3),
            (1, Some(4), 0, 4, 4),
            (1, Some(5), 8, 4, 8),
            (6, Some(5), 0, 6, 6),
        ] {
            let config = Config {
                vcpus: least,
                max_vcpus: largest,
                ..Config::default()
            };
            let pod = PodConfig {
                cpus: pods,
                ..PodConfig::default()
            };
            let vm = vm_spec(&config, &pod, &dir(), HOST);
            assert_eq!(
                (vm.vcpus, vm.max_vcpus),
                (vcpus, max_vcpus),
                "{least} {pods:?}"
            );
        }
    }

    #[test]
    fn the_hosts_memory_is_the_total_of_its_table() {
        for (meminfo, mib) in [
            ("MemTotal:       16314144 kB\nMemFree: 1 kB\n", 15931),
            ("MemFree: 9999 kB\nMemTotal: 2047 kB\n", 1),
            ("MemTotal: 1023 kB\n", 0),
            ("MemTotal: many kB\n", 0),
            ("", 0),
        ] {
            assert_eq!(total_mib(meminfo), mib, "{meminfo}");
        }
        let host = HostSize::read();
        assert!(host.memory_mib > 0 && host.cpus > 0, "{host:?}");
    }

    #[test]
    fn the_agent_gets_the_pods_names_share_and_time() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let pod = PodConfig {
            id: "p".into(),
            hostname: Some("h".into()),
            sysctls: HashMap::from([("net.a".to_owned(), "1".to_owned())]),
            share_pid: true,
            ..PodConfig::default()
        };
        let mut request = create_pod_request(&pod);
        let now = u128::from(std::mem::take(&mut request.realtime_ns));
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(
            (before.as_nanos()..=after.as_nanos()).contains(&now),
            "{now}"
        );
        let expected = api::CreatePodRequest {
            pod_id: "p".into(),
            hostname: "h".into(),
            storages: vec![api::Storage {
                fstype: "virtiofs".into(),
                source: SHARE_TAG.into(),
                target: GUEST_SHARE.into(),
                ..Default::default()
            }],
            sysctls: pod.sysctls.clone(),
            share_pid: true,
            ..Default::default()
        };
        assert_eq!(request, expected);

        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let unnamed = create_pod_request(&PodConfig::default());
        assert_eq!(
            (&*unnamed.hostname, unnamed.share_pid),
            (host.trim(), false)
        );
    }
}
