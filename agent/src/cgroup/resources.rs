//! Converts OCI LinuxResources, which follow cgroup v1, to the files of v2.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

use super::Cgroup;
use crate::error::{Error, Result};

impl Cgroup {
    /// Applies every limit that is set.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(memory) = resources.memory() {
            self.apply_memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.apply_cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            self.write("pids.max", &pids_max(pids.limit()))?;
        }
        if let Some(io) = resources.block_io() {
            self.apply_io(io)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let (file, value) = hugepages(limit);
            self.write(&file, &value)?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') {
                return Err(Error::invalid("unified resource", file, "a cgroup file"));
            }
            self.write(file, value)?;
        }
        Ok(())
    }

    fn apply_memory(&self, memory: &LinuxMemory) -> Result<()> {
        let swap = match swap_max(memory)? {
            Some(swap) if self.file("memory.swap.max").exists() => Some(swap),
            _ => None,
        };
        let limit = memory.limit().filter(|limit| *limit != 0).map(amount);
        // A smaller limit must not meet the old, larger amount of swap, and a larger limit must
        // be set before more swap is. Both orders are safe in v2, which counts the two
        // separately.
        if let Some(limit) = limit {
            if memory.check_before_update() == Some(true)
                && let Ok(wanted) = limit.parse::<u64>()
                && wanted < self.stats().memory.usage
            {
                let expected = "at least the memory in use";
                return Err(Error::invalid("memory limit", wanted, expected));
            }
            self.write("memory.max", &limit)?;
        }
        if let Some(swap) = swap {
            self.write("memory.swap.max", &swap)?;
        }
        if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
            self.write("memory.low", &amount(reservation))?;
        }
        Ok(())
    }

    fn apply_cpu(&self, cpu: &LinuxCpu) -> Result<()> {
        if cpu.realtime_runtime().is_some_and(|r| r > 0)
            || cpu.realtime_period().is_some_and(|p| p > 0)
        {
            return Err(Error::Unsupported(
                "real-time scheduling limits (cgroup v2 has none)".into(),
            ));
        }
        if let Some(idle) = cpu.idle() {
            self.write("cpu.idle", &idle.to_string())?;
        }
        if let Some(weight) = cpu.shares().and_then(weight) {
            self.write("cpu.weight", &weight.to_string())?;
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let old = self.read("cpu.max")?;
            self.write("cpu.max", &cpu_max(&old, cpu.quota(), cpu.period()))?;
        }
        if let Some(burst) = cpu.burst() {
            self.write("cpu.max.burst", &burst.to_string())?;
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.write("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.write("cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn apply_io(&self, io: &LinuxBlockIo) -> Result<()> {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            self.write("io.weight", &format!("default {}", io_weight(weight)))?;
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let (major, minor) = (device.major(), device.minor());
                self.write(
                    "io.weight",
                    &format!("{major}:{minor} {}", io_weight(weight)),
                )?;
            }
        }
        for (key, devices) in [
            ("rbps", io.throttle_read_bps_device()),
            ("wbps", io.throttle_write_bps_device()),
            ("riops", io.throttle_read_iops_device()),
            ("wiops", io.throttle_write_iops_device()),
        ] {
            for device in devices.iter().flatten() {
                self.write("io.max", &throttle(key, device))?;
            }
        }
        Ok(())
    }
}

/// A number of bytes; a negative one means no limit.
fn amount(value: i64) -> String {
    match value {
        ..0 => "max".into(),
        value => value.to_string(),
    }
}

/// In v1 the swap limit covers memory and swap together; in v2 it covers swap only.
fn swap_max(memory: &LinuxMemory) -> Result<Option<String>> {
    match (memory.swap(), memory.limit()) {
        (None | Some(0), Some(-1)) => Ok(Some("max".into())),
        (None | Some(0), _) => Ok(None),
        (Some(..0), _) | (_, Some(..0)) => Ok(Some("max".into())),
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => {
            Ok(Some((swap - limit).to_string()))
        }
        (Some(swap), Some(limit)) if limit > 0 => Err(Error::invalid(
            "memory and swap limit",
            swap,
            format!("at least the memory limit {limit}"),
        )),
        (Some(_), _) => Err(Error::Requires {
            what: "a swap limit".into(),
            needs: "a memory limit",
        }),
    }
}

/// As with runc, 0 means 1, since a container has at least one process.
fn pids_max(limit: i64) -> String {
    match limit {
        ..0 => "max".into(),
        0 => "1".into(),
        limit => limit.to_string(),
    }
}

/// Converts CPU shares [2, 262144], default 1024, to a weight [1, 10000], default 100, with the
/// curve of runc since 1.3.2, which maps both ends and the default exactly.
fn weight(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            Some((10f64.powf(exponent).ceil() as u64).clamp(1, 10_000))
        }
    }
}

/// "quota period"; a value that is not given keeps its old value.
fn cpu_max(old: &str, quota: Option<i64>, period: Option<u64>) -> String {
    let mut old = old.split_ascii_whitespace();
    let (old_quota, old_period) = (old.next().unwrap_or("max"), old.next().unwrap_or("100000"));
    let quota = match quota {
        None | Some(0) => old_quota.to_owned(),
        Some(..0) => "max".to_owned(),
        Some(quota) => quota.to_string(),
    };
    match period {
        None | Some(0) => format!("{quota} {old_period}"),
        Some(period) => format!("{quota} {period}"),
    }
}

/// Converts a blkio weight [10, 1000] to an io weight [1, 10000], as runc does.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn throttle(key: &str, device: &LinuxThrottleDevice) -> String {
    let rate = match device.rate() {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    format!("{}:{} {key}={rate}", device.major(), device.minor())
}

fn hugepages(limit: &LinuxHugepageLimit) -> (String, String) {
    (
        format!("hugetlb.{}.max", limit.page_size()),
        amount(limit.limit()),
    )
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxMemoryBuilder;

    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!(weight(0), None);
        assert_eq!(weight(2), Some(1));
        assert_eq!(weight(1024), Some(100));
        assert_eq!(weight(262_144), Some(10_000));
        assert_eq!(weight(u64::MAX), Some(10_000));
    }

    #[test]
    fn an_update_of_the_quota_keeps_the_period() {
        assert_eq!(cpu_max("max 100000\n", Some(50_000), None), "50000 100000");
        assert_eq!(cpu_max("20000 50000", None, Some(10_000)), "20000 10000");
        assert_eq!(cpu_max("20000 50000", Some(-1), None), "max 50000");
        assert_eq!(cpu_max("", Some(1000), Some(2000)), "1000 2000");
    }

    #[test]
    fn swap_is_counted_apart_from_memory() {
        let memory = |limit, swap| {
            LinuxMemoryBuilder::default()
                .limit(limit)
                .swap(swap)
                .build()
                .unwrap()
        };
        assert_eq!(swap_max(&memory(100, 150)).unwrap().unwrap(), "50");
        assert_eq!(swap_max(&memory(100, -1)).unwrap().unwrap(), "max");
        assert_eq!(swap_max(&memory(-1, -1)).unwrap().unwrap(), "max");
        assert!(swap_max(&memory(100, 50)).is_err());
        assert!(swap_max(&memory(0, 50)).is_err());
    }

    #[test]
    fn pids_and_io_weights_are_those_of_runc() {
        assert_eq!(pids_max(0), "1");
        assert_eq!(pids_max(-1), "max");
        assert_eq!(pids_max(20), "20");
        assert_eq!(io_weight(10), 1);
        assert_eq!(io_weight(1000), 10_000);
    }
}
