//! What containers and their VM use, and which processes run in them.

use std::time::SystemTime;

use protos::agent as api;

use crate::error::Result;
use crate::pod::Pod;

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name in the pod.
    pub container: String,
    /// CPU time since its start.
    pub cpu_ns: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// The limit of that; none without one.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
    /// When this was so.
    pub at: SystemTime,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Of each container that runs, in the guest.
    pub containers: Vec<ContainerUsage>,
    /// Memory of the VM on the host, in bytes; 0 without a VM.
    pub vm_memory: u64,
    /// CPU time of the VM on the host.
    pub vm_cpu_ns: u64,
}

/// A process in a container, as in `/proc/PID` of the guest, proc(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcess {
    /// Its pid in the guest.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// Its user.
    pub uid: u32,
    /// CPU time since its start.
    pub cpu_ms: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Its arguments, joined by spaces; its name in brackets if it has none.
    pub command: String,
}

/// No limit, in the files of cgroup v2 as the agent has them.
pub(in crate::engine) const NO_LIMIT: u64 = u64::MAX;

/// Measures a container.
pub(in crate::engine) async fn measure(pod: &Pod, container: &str) -> Result<ContainerUsage> {
    let stats = pod.stats(container).await?;
    let sum = |of: fn(&api::IoStats) -> u64| stats.io.iter().map(of).fold(0, u64::saturating_add);
    Ok(ContainerUsage {
        container: container.to_owned(),
        cpu_ns: stats.cpu.usage_usec.saturating_mul(1000),
        memory: stats.memory.usage,
        memory_limit: Some(stats.memory.limit).filter(|limit| *limit != NO_LIMIT),
        pids: stats.pids.current,
        read: sum(|io| io.rbytes),
        written: sum(|io| io.wbytes),
        at: SystemTime::now(),
    })
}

/// Lists the processes of a container.
pub(in crate::engine) async fn list(pod: &Pod, container: &str) -> Result<Vec<ContainerProcess>> {
    let listed = pod.processes(container).await?.processes.into_iter();
    Ok(listed
        .map(|process| ContainerProcess {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            cpu_ms: process.cpu_ms,
            resident_bytes: process.resident_bytes,
            command: process.command,
        })
        .collect())
}
