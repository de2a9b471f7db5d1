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
        let less = swap_max(&memory(100, 50)).unwrap_err().to_string();
        assert!(less.contains("at least the memory limit 100"), "{less}");
        let alone = swap_max(&memory(0, 50)).unwrap_err().to_string();
        assert!(alone.contains("requires a memory limit"), "{alone}");
    }

    #[test]
    fn pids_and_io_weights_are_those_of_runc() {
        assert_eq!(pids_max(0), "1");
        assert_eq!(pids_max(-1), "max");
        assert_eq!(pids_max(20), "20");
        assert_eq!(io_weight(10), 1);
        assert_eq!(io_weight(1000), 10_000);
    }

    /// What is written for the resources of a spec, file by file; all of them are there before,
    /// `cpu.max` with this.
    fn applied(
        resources: serde_json::Value,
        files: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let cgroup = Cgroup {
            path: folder.path().to_owned(),
        };
        cgroup.apply(&serde_json::from_value(resources).unwrap())?;
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        Ok(files)
    }

    #[test]
    fn each_limit_is_written_to_its_file() {
        let resources = serde_json::json!({
            "memory": { "limit": 100, "swap": 150, "reservation": 60 },
            "cpu": {
                "shares": 1024, "quota": 5000, "period": 10000, "burst": 7, "idle": 1,
                "cpus": "0-1", "mems": "0",
            },
            "pids": { "limit": 20 },
            "blockIO": { "weight": 500 },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4096 }],
            "unified": { "memory.high": "90" },
        });
        let files = [("memory.swap.max", "max"), ("cpu.max", "max 100000")];
        let expected = [
            ("cpu.idle", "1"),
            ("cpu.max", "5000 10000"),
            ("cpu.max.burst", "7"),
            ("cpu.weight", "100"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("hugetlb.2MB.max", "4096"),
            ("io.weight", "default 4950"),
            ("memory.high", "90"),
            ("memory.low", "60"),
            ("memory.max", "100"),
            ("memory.swap.max", "50"),
            ("pids.max", "20"),
        ];
        let expected = expected.map(|(file, text)| (file.to_owned(), text.to_owned()));
        assert_eq!(applied(resources, &files).unwrap(), expected);
    }

    #[test]
    fn limits_of_devices_are_written_with_their_numbers() {
        for (limit, file, text) in [
            (
                r#"{"weightDevice":[{"major":8,"minor":1,"weight":100}]}"#,
                "io.weight",
                "8:1 910",
            ),
            (
                r#"{"throttleReadBpsDevice":[{"major":8,"minor":2,"rate":3}]}"#,
                "io.max",
                "8:2 rbps=3",
            ),
            (
                r#"{"throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":3}]}"#,
                "io.max",
                "8:2 wbps=3",
            ),
            (
                r#"{"throttleReadIOPSDevice":[{"major":8,"minor":2,"rate":3}]}"#,
                "io.max",
                "8:2 riops=3",
            ),
            (
                r#"{"throttleWriteIOPSDevice":[{"major":8,"minor":2,"rate":0}]}"#,
                "io.max",
                "8:2 wiops=max",
            ),
        ] {
            let limit: serde_json::Value = serde_json::from_str(limit).unwrap();
            let written = applied(serde_json::json!({ "blockIO": limit }), &[]).unwrap();
            assert_eq!(written, [(file.to_owned(), text.to_owned())]);
        }
    }

    #[test]
    fn what_is_zero_or_not_there_is_left_alone() {
        let resources = serde_json::json!({
            "memory": { "limit": 0, "swap": 0, "reservation": 0 },
            "cpu": { "shares": 0, "cpus": "", "mems": "", "realtimeRuntime": 0, "realtimePeriod": 0 },
            "blockIO": { "weight": 0 },
        });
        assert_eq!(applied(resources, &[]).unwrap(), []);
        // A kernel without swap accounting.
        let resources = serde_json::json!({ "memory": { "limit": -1, "swap": -1 } });
        let written = applied(resources, &[]).unwrap();
        assert_eq!(written, [("memory.max".to_owned(), "max".to_owned())]);
        let resources = serde_json::json!({ "cpu": { "period": 50000 } });
        let written = applied(resources, &[("cpu.max", "20000 100000")]).unwrap();
        assert_eq!(written, [("cpu.max".to_owned(), "20000 50000".to_owned())]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let refused = |resources| applied(resources, &[("memory.current", "4096")]).unwrap_err();
        for bad in ["../x", "notafile"] {
            let error = refused(serde_json::json!({ "unified": { bad: "1" } }));
            assert!(error.to_string().contains(bad), "{error}");
        }
        for key in ["realtimeRuntime", "realtimePeriod"] {
            let error = refused(serde_json::json!({ "cpu": { key: 1 } }));
            assert!(matches!(error, Error::Unsupported(_)), "{error}");
        }
        let memory =
            |limit| serde_json::json!({ "memory": { "limit": limit, "checkBeforeUpdate": true } });
        let error = refused(memory(4095));
        assert!(matches!(&error, Error::InvalidValue { value, .. } if value == "4095"));
        applied(memory(4096), &[("memory.current", "4096")]).unwrap();
    }

    #[test]
    fn a_limit_of_swap_takes_one_of_memory_into_account() {
        let memory = |json| serde_json::from_str::<LinuxMemory>(json).unwrap();
        for (json, max) in [
            ("{}", None),
            (r#"{"limit":100}"#, None),
            (r#"{"limit":100,"swap":0}"#, None),
            (r#"{"limit":-1}"#, Some("max")),
            (r#"{"limit":-1,"swap":0}"#, Some("max")),
            (r#"{"limit":-1,"swap":5}"#, Some("max")),
            (r#"{"limit":100,"swap":100}"#, Some("0")),
            (r#"{"swap":-1}"#, Some("max")),
        ] {
            assert_eq!(swap_max(&memory(json)).unwrap().as_deref(), max, "{json}");
        }
        for bad in [r#"{"swap":5}"#, r#"{"limit":100,"swap":99}"#] {
            assert!(
                matches!(
                    swap_max(&memory(bad)),
                    Err(Error::InvalidValue { .. } | Error::Requires { .. })
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn conversions_at_their_bounds() {
        assert_eq!(
            [weight(1), weight(3), weight(262_143)],
            [Some(1), Some(2), Some(10_000)]
        );
        assert_eq!([weight(512), weight(2048)], [Some(59), Some(174)]);
        assert_eq!([amount(-1), amount(0), amount(1)], ["max", "0", "1"]);
        assert_eq!([pids_max(1), pids_max(i64::MIN)], ["1", "max"]);
        assert_eq!([io_weight(0), io_weight(11), io_weight(500)], [1, 11, 4950]);
        assert_eq!(cpu_max("20000 50000", Some(0), Some(0)), "20000 50000");
        assert_eq!(cpu_max("max", None, None), "max 100000");
    }
}
