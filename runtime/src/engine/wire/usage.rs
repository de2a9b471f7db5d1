//! Usage and processes, as they travel.

use protos::management as api;

use crate::engine::time::{from_nanos, nanos};
use crate::engine::usage::{ContainerProcess, ContainerUsage, NO_LIMIT, PodUsage};

/// What a pod uses, as an answer.
pub fn to_stats(usage: PodUsage) -> api::StatsResponse {
    api::StatsResponse {
        containers: usage.containers.into_iter().map(to_container).collect(),
        vm_memory: usage.vm_memory,
        vm_cpu_ns: usage.vm_cpu_ns,
        ..Default::default()
    }
}

fn to_container(usage: ContainerUsage) -> api::ContainerStats {
    let cpu = api::CpuUsage {
        usage_usec: usage.cpu_ns / 1000,
        ..Default::default()
    };
    let memory = api::MemoryUsage {
        usage: usage.memory,
        limit: usage.memory_limit.unwrap_or(NO_LIMIT),
        ..Default::default()
    };
    let pids = api::PidsUsage {
        current: usage.pids,
        ..Default::default()
    };
    let io = api::IoUsage {
        read_bytes: usage.read,
        written_bytes: usage.written,
        ..Default::default()
    };
    let of = api::Usage {
        cpu: Some(cpu).into(),
        memory: Some(memory).into(),
        pids: Some(pids).into(),
        io: vec![io],
        ..Default::default()
    };
    api::ContainerStats {
        container: usage.container,
        usage: Some(of).into(),
        read_at: nanos(usage.at),
        ..Default::default()
    }
}

/// The reverse of [`to_stats`].
pub fn of_stats(stats: api::StatsResponse) -> PodUsage {
    PodUsage {
        containers: stats.containers.into_iter().map(of_container).collect(),
        vm_memory: stats.vm_memory,
        vm_cpu_ns: stats.vm_cpu_ns,
    }
}

fn of_container(stats: api::ContainerStats) -> ContainerUsage {
    let usage = &stats.usage;
    let sum = |of: fn(&api::IoUsage) -> u64| usage.io.iter().map(of).fold(0, u64::saturating_add);
    ContainerUsage {
        cpu_ns: usage.cpu.usage_usec.saturating_mul(1000),
        memory: usage.memory.usage,
        memory_limit: Some(usage.memory.limit).filter(|limit| *limit != NO_LIMIT),
        pids: usage.pids.current,
        read: sum(|io| io.read_bytes),
        written: sum(|io| io.written_bytes),
        at: from_nanos(stats.read_at),
        container: stats.container,
    }
}

/// Processes, as an answer.
pub fn to_processes(processes: Vec<ContainerProcess>) -> api::ProcessesResponse {
    let processes = processes.into_iter().map(|process| api::Process {
        pid: process.pid,
        parent: process.parent,
        uid: process.uid,
        cpu_ms: process.cpu_ms,
        resident_bytes: process.resident_bytes,
        command: process.command,
        ..Default::default()
    });
    let list = api::ProcessList {
        processes: processes.collect(),
        ..Default::default()
    };
    api::ProcessesResponse {
        list: Some(list).into(),
        ..Default::default()
    }
}

/// The reverse of [`to_processes`].
pub fn of_processes(answer: api::ProcessesResponse) -> Vec<ContainerProcess> {
    let list = answer.list.into_option().unwrap_or_default();
    let processes = list.processes.into_iter();
    processes
        .map(|process| ContainerProcess {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            cpu_ms: process.cpu_ms,
            resident_bytes: process.resident_bytes,
            command: process.command,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    use protobuf::{CodedOutputStream, Message};

    /// Bytes as field `number` of a message, which is how builds up to 79015a4 send these.
    fn as_bytes(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let mut out = CodedOutputStream::vec(&mut message);
        out.write_bytes(number, bytes).unwrap();
        out.flush().unwrap();
        drop(out);
        message
    }

    fn usage() -> PodUsage {
        PodUsage {
            containers: vec![ContainerUsage {
                container: "c".into(),
                cpu_ns: 1_000,
                memory: 2,
                memory_limit: Some(3),
                pids: 4,
                read: 5,
                written: 6,
                at: SystemTime::UNIX_EPOCH + Duration::from_nanos(7),
            }],
            vm_memory: 8,
            vm_cpu_ns: 9,
        }
    }

    fn processes() -> Vec<ContainerProcess> {
        vec![ContainerProcess {
            pid: 1,
            parent: 2,
            uid: 3,
            cpu_ms: 4,
            resident_bytes: 5,
            command: "sleep 7".into(),
        }]
    }

    #[test]
    fn usage_and_processes_travel() {
        assert_eq!(of_stats(to_stats(usage())), usage());
        let mut unlimited = usage();
        unlimited.containers[0].memory_limit = None;
        assert_eq!(of_stats(to_stats(unlimited.clone())), unlimited);
        assert_eq!(of_processes(to_processes(processes())), processes());
    }

    /// What an owner of an earlier build answers is understood, and its clients
    /// understand what is answered now.
    #[test]
    fn earlier_builds_have_the_same_as_bytes() {
        let stats = protos::agent::StatsResponse {
            cpu: Some(protos::agent::CpuStats {
                usage_usec: 1,
                user_usec: 77,
                ..Default::default()
            })
            .into(),
            memory: Some(protos::agent::MemoryStats {
                usage: 2,
                max_usage: 77,
                limit: 3,
                ..Default::default()
            })
            .into(),
            pids: Some(protos::agent::PidsStats {
                current: 4,
                limit: 77,
                ..Default::default()
            })
            .into(),
            io: vec![protos::agent::IoStats {
                major: 77,
                rbytes: 5,
                wbytes: 6,
                ..Default::default()
            }],
            ..Default::default()
        };
        let bytes = as_bytes(2, &stats.write_to_bytes().unwrap());
        let answer = api::ContainerStats::parse_from_bytes(&bytes).unwrap();
        let read = of_container(answer);
        let expected = usage().containers.remove(0);
        assert_eq!((read.cpu_ns, read.memory), (expected.cpu_ns, 2));
        assert_eq!((read.memory_limit, read.pids), (Some(3), 4));
        assert_eq!((read.read, read.written), (5, 6));

        let answer = to_container(expected);
        let as_before = answer.usage.write_to_bytes().unwrap();
        let as_before = protos::agent::StatsResponse::parse_from_bytes(&as_before).unwrap();
        assert_eq!(as_before.cpu.usage_usec, 1);
        assert_eq!((as_before.memory.usage, as_before.memory.limit), (2, 3));
        assert_eq!(as_before.pids.current, 4);
        assert_eq!((as_before.io[0].rbytes, as_before.io[0].wbytes), (5, 6));

        let answer = to_processes(processes());
        let as_before = answer.list.write_to_bytes().unwrap();
        let listed = protos::agent::ListProcessesResponse::parse_from_bytes(&as_before).unwrap();
        assert_eq!(listed.processes[0].command, "sleep 7");
        assert_eq!(
            (listed.processes[0].parent, listed.processes[0].uid),
            (2, 3)
        );
        let bytes = as_bytes(1, &as_before);
        let answer = api::ProcessesResponse::parse_from_bytes(&bytes).unwrap();
        assert_eq!(of_processes(answer), processes());
    }
}
