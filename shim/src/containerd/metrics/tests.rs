//! Every number of the guest is another one and is found again in its field, with its unit.

use super::*;
use runtime::agent::{CpuStats, IoStats, PidsStats};

/// memory.stat and memory.events as the kernel names them (Documentation/admin-guide/cgroup-v2.rst).
const STAT: [(&str, u64); 37] = [
    ("anon", 101),
    ("file", 102),
    ("kernel", 103),
    ("kernel_stack", 104),
    ("slab", 105),
    ("sock", 106),
    ("shmem", 107),
    ("file_mapped", 108),
    ("file_dirty", 109),
    ("file_writeback", 110),
    ("anon_thp", 111),
    ("inactive_anon", 112),
    ("active_anon", 113),
    ("inactive_file", 114),
    ("active_file", 115),
    ("unevictable", 116),
    ("slab_reclaimable", 117),
    ("slab_unreclaimable", 118),
    ("pgfault", 119),
    ("pgmajfault", 120),
    ("workingset_refault_anon", 1_000),
    ("workingset_refault_file", 20_000),
    ("workingset_activate_anon", 300_000),
    ("workingset_activate_file", 4_000_000),
    ("workingset_nodereclaim", 121),
    ("pgrefill", 122),
    ("pgscan", 123),
    ("pgsteal", 124),
    ("pgactivate", 125),
    ("pgdeactivate", 126),
    ("pglazyfree", 127),
    ("pglazyfreed", 128),
    ("thp_fault_alloc", 129),
    ("thp_collapse_alloc", 130),
    ("pagetables", 131),
    ("percpu", 132),
    ("zswap", 133),
];
const EVENTS: [(&str, u64); 6] = [
    ("low", 201),
    ("high", 202),
    ("max", 203),
    ("oom", 204),
    ("oom_kill", 205),
    ("oom_group_kill", 206),
];

fn stats() -> StatsResponse {
    let map = |entries: &[(&str, u64)]| entries.iter().map(|(k, v)| ((*k).into(), *v)).collect();
    let io = |first: u64| IoStats {
        major: first,
        minor: first + 1,
        rbytes: first + 2,
        wbytes: first + 3,
        rios: first + 4,
        wios: first + 5,
        ..Default::default()
    };
    StatsResponse {
        cpu: some(CpuStats {
            usage_usec: 1,
            user_usec: 2,
            system_usec: 3,
            nr_periods: 4,
            nr_throttled: 5,
            throttled_usec: 6,
            ..Default::default()
        }),
        memory: some(MemoryStats {
            usage: 11,
            max_usage: 12,
            limit: 13,
            swap_usage: 140,
            swap_limit: 1500,
            stat: map(&STAT),
            events: map(&EVENTS),
            ..Default::default()
        }),
        pids: some(PidsStats {
            current: 21,
            limit: 22,
            ..Default::default()
        }),
        io: vec![io(300), io(310)],
        ..Default::default()
    }
}

#[test]
fn legacy_metrics_as_a_whole() {
    let entry = |limit, usage, max, failcnt| {
        some(v1::MemoryEntry {
            limit,
            usage,
            max,
            failcnt,
            ..Default::default()
        })
    };
    // memory.stat of cgroup v1 counts in bytes, as that of v2 does.
    let memory = v1::MemoryStat {
        cache: 102,
        rss: 101,
        rss_huge: 111,
        mapped_file: 108,
        dirty: 109,
        writeback: 110,
        pg_fault: 119,
        pg_maj_fault: 120,
        inactive_anon: 112,
        active_anon: 113,
        inactive_file: 114,
        active_file: 115,
        unevictable: 116,
        hierarchical_memory_limit: 13,
        hierarchical_swap_limit: 1500,
        total_cache: 102,
        total_rss: 101,
        total_rss_huge: 111,
        total_mapped_file: 108,
        total_dirty: 109,
        total_writeback: 110,
        total_pg_fault: 119,
        total_pg_maj_fault: 120,
        total_inactive_anon: 112,
        total_active_anon: 113,
        total_inactive_file: 114,
        total_active_file: 115,
        total_unevictable: 116,
        usage: entry(13, 11, 12, 203),
        swap: entry(1513, 151, 152, 0),
        kernel: entry(0x7fff_ffff_ffff_f000, 103, 0, 0),
        kernel_tcp: entry(0x7fff_ffff_ffff_f000, 106, 0, 0),
        ..Default::default()
    };
    let blkio = |op: &str, major, minor, value| v1::BlkIOEntry {
        op: op.into(),
        major,
        minor,
        value,
        ..Default::default()
    };
    let expected = v1::Metrics {
        pids: some(v1::PidsStat {
            current: 21,
            limit: 22,
            ..Default::default()
        }),
        // In nanoseconds, where the guest has microseconds.
        cpu: some(v1::CPUStat {
            usage: some(v1::CPUUsage {
                total: 1000,
                kernel: 3000,
                user: 2000,
                ..Default::default()
            }),
            throttling: some(v1::Throttle {
                periods: 4,
                throttled_periods: 5,
                throttled_time: 6000,
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory: some(memory),
        blkio: some(v1::BlkIOStat {
            io_service_bytes_recursive: vec![
                blkio("Read", 300, 301, 302),
                blkio("Write", 300, 301, 303),
                blkio("Read", 310, 311, 312),
                blkio("Write", 310, 311, 313),
            ],
            io_serviced_recursive: vec![
                blkio("Read", 300, 301, 304),
                blkio("Write", 300, 301, 305),
                blkio("Read", 310, 311, 314),
                blkio("Write", 310, 311, 315),
            ],
            ..Default::default()
        }),
        rdma: some(v1::RdmaStat::default()),
        cgroup_stats: some(v1::CgroupStats::default()),
        memory_oom_control: some(v1::MemoryOomControl {
            oom_kill: 205,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(legacy(&stats()), expected);
}

#[test]
fn unified_metrics_as_a_whole() {
    let memory = v2::MemoryStat {
        anon: 101,
        file: 102,
        kernel_stack: 104,
        slab: 105,
        sock: 106,
        shmem: 107,
        file_mapped: 108,
        file_dirty: 109,
        file_writeback: 110,
        anon_thp: 111,
        inactive_anon: 112,
        active_anon: 113,
        inactive_file: 114,
        active_file: 115,
        unevictable: 116,
        slab_reclaimable: 117,
        slab_unreclaimable: 118,
        pgfault: 119,
        pgmajfault: 120,
        workingset_refault: 21_000,
        workingset_activate: 4_300_000,
        workingset_nodereclaim: 121,
        pgrefill: 122,
        pgscan: 123,
        pgsteal: 124,
        pgactivate: 125,
        pgdeactivate: 126,
        pglazyfree: 127,
        pglazyfreed: 128,
        thp_fault_alloc: 129,
        thp_collapse_alloc: 130,
        usage: 11,
        usage_limit: 13,
        swap_usage: 140,
        swap_limit: 1500,
        max_usage: 12,
        ..Default::default()
    };
    let io = |first: u64| v2::IOEntry {
        major: first,
        minor: first + 1,
        rbytes: first + 2,
        wbytes: first + 3,
        rios: first + 4,
        wios: first + 5,
        ..Default::default()
    };
    let expected = v2::Metrics {
        pids: some(v2::PidsStat {
            current: 21,
            limit: 22,
            ..Default::default()
        }),
        // In microseconds, as the guest has them.
        cpu: some(v2::CPUStat {
            usage_usec: 1,
            user_usec: 2,
            system_usec: 3,
            nr_periods: 4,
            nr_throttled: 5,
            throttled_usec: 6,
            ..Default::default()
        }),
        memory: some(memory),
        rdma: some(v2::RdmaStat::default()),
        io: some(v2::IOStat {
            usage: vec![io(300), io(310)],
            ..Default::default()
        }),
        memory_events: some(v2::MemoryEvents {
            low: 201,
            high: 202,
            max: 203,
            oom: 204,
            oom_kill: 205,
            oom_group_kill: 206,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(unified(&stats()), expected);
}

#[test]
fn no_limit_is_what_each_version_says_for_it() {
    let mut stats = stats();
    stats.pids.mut_or_insert_default().limit = u64::MAX;
    let memory = stats.memory.mut_or_insert_default();
    (memory.limit, memory.swap_limit) = (u64::MAX, u64::MAX);
    const NONE: u64 = 0x7fff_ffff_ffff_f000;

    let old = legacy(&stats);
    assert_eq!(old.pids.limit, 0);
    assert_eq!(old.memory.hierarchical_memory_limit, NONE);
    assert_eq!(old.memory.hierarchical_swap_limit, NONE);
    assert_eq!(old.memory.usage.limit, NONE);
    assert_eq!(old.memory.swap.limit, NONE);
    let new = unified(&stats);
    assert_eq!(new.pids.limit, u64::MAX);
    assert_eq!(new.memory.usage_limit, u64::MAX);
    assert_eq!(new.memory.swap_limit, u64::MAX);
}

#[test]
fn every_submessage_is_there_even_for_an_empty_answer() {
    let m = legacy(&StatsResponse::default());
    assert!(m.pids.is_some() && m.cpu.usage.is_some() && m.cpu.throttling.is_some());
    assert!(m.memory.usage.is_some() && m.memory.swap.is_some());
    assert!(m.memory.kernel.is_some() && m.memory.kernel_tcp.is_some());
    assert!(m.blkio.is_some() && m.rdma.is_some() && m.cgroup_stats.is_some());
    let m = unified(&StatsResponse::default());
    assert!(m.pids.is_some() && m.cpu.is_some() && m.memory.is_some());
    assert!(m.rdma.is_some() && m.io.is_some() && m.memory_events.is_some());
}

#[test]
fn containerd_decodes_by_the_type_of_the_hosts_version() {
    use protobuf::Message;
    let stats = stats();
    let old = of_version(&stats, false).unwrap();
    assert_eq!(old.type_url, "io.containerd.cgroups.v1.Metrics");
    assert_eq!(
        v1::Metrics::parse_from_bytes(&old.value).unwrap(),
        legacy(&stats)
    );
    let new = of_version(&stats, true).unwrap();
    assert_eq!(new.type_url, "io.containerd.cgroups.v2.Metrics");
    assert_eq!(
        v2::Metrics::parse_from_bytes(&new.value).unwrap(),
        unified(&stats)
    );

    // cgroup v2 has this file in the root of its hierarchy, v1 has not.
    let is_unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(of(&stats).unwrap(), of_version(&stats, is_unified).unwrap());
}
