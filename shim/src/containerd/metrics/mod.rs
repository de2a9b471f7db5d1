//! The guest's cgroup v2 numbers as containerd's metrics.
//!
//! containerd decodes by the host's cgroup version, so on a v1 or hybrid host the numbers take
//! v1's names. Every submessage is present, since clients do not check for missing ones.

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use runtime::agent::{MemoryStats, StatsResponse};

use crate::containerd::proto::any;

/// The value of cgroup v1's memory controller for "no limit": the highest number of bytes in
/// whole pages.
const V1_NO_LIMIT: u64 = i64::MAX as u64 & !0xfff;

/// Converts the numbers to metrics of the host's cgroup version.
pub fn of(stats: &StatsResponse) -> protobuf::Result<Any> {
    of_version(stats, host_is_unified())
}

fn of_version(stats: &StatsResponse, is_unified: bool) -> protobuf::Result<Any> {
    match is_unified {
        true => any(&unified(stats)),
        false => any(&legacy(stats)),
    }
}

fn host_is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

/// The limit, with `none` in place of the guest's "max".
fn limit(value: u64, none: u64) -> u64 {
    if value == u64::MAX { none } else { value }
}

fn stat(memory: &MemoryStats, key: &str) -> u64 {
    memory.stat.get(key).copied().unwrap_or(0)
}

fn event(memory: &MemoryStats, key: &str) -> u64 {
    memory.events.get(key).copied().unwrap_or(0)
}

fn legacy(stats: &StatsResponse) -> v1::Metrics {
    let pids = v1::PidsStat {
        current: stats.pids.current,
        limit: limit(stats.pids.limit, 0),
        ..Default::default()
    };
    let cpu = v1::CPUStat {
        usage: some(v1::CPUUsage {
            total: stats.cpu.usage_usec * 1000,
            kernel: stats.cpu.system_usec * 1000,
            user: stats.cpu.user_usec * 1000,
            ..Default::default()
        }),
        throttling: some(v1::Throttle {
            periods: stats.cpu.nr_periods,
            throttled_periods: stats.cpu.nr_throttled,
            throttled_time: stats.cpu.throttled_usec * 1000,
            ..Default::default()
        }),
        ..Default::default()
    };
    v1::Metrics {
        pids: some(pids),
        cpu: some(cpu),
        memory: some(legacy_memory(&stats.memory)),
        blkio: some(legacy_io(stats)),
        rdma: some(v1::RdmaStat::default()),
        cgroup_stats: some(v1::CgroupStats::default()),
        memory_oom_control: some(v1::MemoryOomControl {
            oom_kill: event(&stats.memory, "oom_kill"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn legacy_memory(memory: &MemoryStats) -> v1::MemoryStat {
    let of = |key| stat(memory, key);
    // A v2 cgroup counts its descendants, so the totals are the same numbers.
    v1::MemoryStat {
        cache: of("file"),
        rss: of("anon"),
        rss_huge: of("anon_thp"),
        mapped_file: of("file_mapped"),
        dirty: of("file_dirty"),
        writeback: of("file_writeback"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: limit(memory.limit, V1_NO_LIMIT),
        hierarchical_swap_limit: limit(memory.swap_limit, V1_NO_LIMIT),
        total_cache: of("file"),
        total_rss: of("anon"),
        total_rss_huge: of("anon_thp"),
        total_mapped_file: of("file_mapped"),
        total_dirty: of("file_dirty"),
        total_writeback: of("file_writeback"),
        total_pg_fault: of("pgfault"),
        total_pg_maj_fault: of("pgmajfault"),
        total_inactive_anon: of("inactive_anon"),
        total_active_anon: of("active_anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        total_unevictable: of("unevictable"),
        usage: some(v1::MemoryEntry {
            limit: limit(memory.limit, V1_NO_LIMIT),
            usage: memory.usage,
            max: memory.max_usage,
            failcnt: event(memory, "max"),
            ..Default::default()
        }),
        // v1's "swap" is memsw: memory and swap together.
        swap: some(v1::MemoryEntry {
            limit: limit(memory.limit.saturating_add(memory.swap_limit), V1_NO_LIMIT),
            usage: memory.usage.saturating_add(memory.swap_usage),
            max: memory.max_usage.saturating_add(memory.swap_usage),
            ..Default::default()
        }),
        kernel: some(v1::MemoryEntry {
            limit: V1_NO_LIMIT,
            usage: of("kernel"),
            ..Default::default()
        }),
        kernel_tcp: some(v1::MemoryEntry {
            limit: V1_NO_LIMIT,
            usage: of("sock"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn legacy_io(stats: &StatsResponse) -> v1::BlkIOStat {
    let entries = |read: fn(&runtime::agent::IoStats) -> u64,
                   write: fn(&runtime::agent::IoStats) -> u64| {
        let of = |io: &runtime::agent::IoStats, op: &str, value| v1::BlkIOEntry {
            op: op.into(),
            major: io.major,
            minor: io.minor,
            value,
            ..Default::default()
        };
        stats
            .io
            .iter()
            .flat_map(|io| [of(io, "Read", read(io)), of(io, "Write", write(io))])
            .collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(|io| io.rbytes, |io| io.wbytes),
        io_serviced_recursive: entries(|io| io.rios, |io| io.wios),
        ..Default::default()
    }
}

fn unified(stats: &StatsResponse) -> v2::Metrics {
    let io = v2::IOStat {
        usage: stats
            .io
            .iter()
            .map(|io| v2::IOEntry {
                major: io.major,
                minor: io.minor,
                rbytes: io.rbytes,
                wbytes: io.wbytes,
                rios: io.rios,
                wios: io.wios,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let events = v2::MemoryEvents {
        low: event(&stats.memory, "low"),
        high: event(&stats.memory, "high"),
        max: event(&stats.memory, "max"),
        oom: event(&stats.memory, "oom"),
        oom_kill: event(&stats.memory, "oom_kill"),
        oom_group_kill: event(&stats.memory, "oom_group_kill"),
        ..Default::default()
    };
    v2::Metrics {
        pids: some(v2::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit,
            ..Default::default()
        }),
        cpu: some(v2::CPUStat {
            usage_usec: stats.cpu.usage_usec,
            user_usec: stats.cpu.user_usec,
            system_usec: stats.cpu.system_usec,
            nr_periods: stats.cpu.nr_periods,
            nr_throttled: stats.cpu.nr_throttled,
            throttled_usec: stats.cpu.throttled_usec,
            ..Default::default()
        }),
        memory: some(unified_memory(&stats.memory)),
        rdma: some(v2::RdmaStat::default()),
        io: some(io),
        memory_events: some(events),
        ..Default::default()
    }
}

fn unified_memory(memory: &MemoryStats) -> v2::MemoryStat {
    let of = |key| stat(memory, key);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        // The counter is split by kind since Linux 5.9.
        workingset_refault: of("workingset_refault_anon") + of("workingset_refault_file"),
        workingset_activate: of("workingset_activate_anon") + of("workingset_activate_file"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.limit,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        max_usage: memory.max_usage,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
