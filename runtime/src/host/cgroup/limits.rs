//! Limits on the host's CPUs for all processes of a pod together. Memory needs no limit here:
//! the VM has a fixed size.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The limits of a pod's cgroup, as in OCI `LinuxCPU`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// Microseconds of CPU time per period; negative: no limit.
    pub quota: Option<i64>,
    /// The period in microseconds.
    pub period: Option<u64>,
    /// Relative weight, 2 to 262,144.
    pub shares: Option<u64>,
    /// The CPUs to run on, as in `0-3,7`.
    pub cpuset: Option<String>,
}

/// The kernel's default period.
const PERIOD: u64 = 100_000;

/// A limit: its name, and files with the value for each. The first existing one of v1's and
/// v2's files is written.
type Limit = (&'static str, Vec<(&'static str, String)>);

impl CpuLimits {
    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn list(&self) -> Vec<Limit> {
        let mut list: Vec<Limit> = Vec::new();
        let period = self.period.unwrap_or(PERIOD);
        // v1 checks a quota against the present period, so the period is set first.
        if self.period.is_some() {
            let v1 = ("cpu.cfs_period_us", period.to_string());
            list.push(("CPU period", vec![v1, ("cpu.max", format!("max {period}"))]));
        }
        if let Some(quota) = self.quota {
            let v2 = if quota < 0 {
                "max".into()
            } else {
                quota.to_string()
            };
            let v1 = ("cpu.cfs_quota_us", quota.to_string());
            list.push(("CPU quota", vec![v1, ("cpu.max", format!("{v2} {period}"))]));
        }
        if let Some(shares) = self.shares {
            let v1 = ("cpu.shares", shares.to_string());
            list.push((
                "CPU shares",
                vec![v1, ("cpu.weight", weight(shares).to_string())],
            ));
        }
        if let Some(cpus) = &self.cpuset {
            list.push(("CPU set", vec![("cpuset.cpus", cpus.clone())]));
        }
        list
    }

    /// Sets the limits of the cgroup with these directories.
    pub(super) fn apply(&self, dirs: &[PathBuf]) -> Result<()> {
        for (limit, files) in self.list() {
            let files = files.into_iter().flat_map(|(file, value)| {
                dirs.iter().map(move |dir| (dir.join(file), value.clone()))
            });
            let Some((file, value)) = files.into_iter().find(|(file, _)| file.exists()) else {
                return Err(Error::NoController { limit });
            };
            fs::write(&file, &value).on("set the limit", &file)?;
        }
        Ok(())
    }
}

/// v2's weight for v1's shares, as converted by the OCI runtimes.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Copies the parent's CPUs and memory nodes: a new cpuset of v1 has none.
pub(super) fn inherit_cpuset(dir: &Path) {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (file, Some(parent)) = (dir.join(name), dir.parent()) else {
            continue;
        };
        let is_empty = fs::read_to_string(&file).is_ok_and(|text| text.trim().is_empty());
        if let Ok(all) = fs::read_to_string(parent.join(name))
            && is_empty
        {
            // If this fails, setting the limit reports it.
            let _ = fs::write(&file, all.trim());
        }
    }
}

/// Whether this is a list of CPUs (cpuset(7), "List format").
pub(crate) fn is_cpu_list(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    text.split(',').all(|part| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(a, b)| a <= b),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> CpuLimits {
        CpuLimits {
            quota: Some(150_000),
            period: Some(50_000),
            shares: Some(1024),
            cpuset: Some("0-1".into()),
        }
    }

    fn dir(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        dir
    }

    #[test]
    fn limits_go_to_the_files_of_either_version() {
        let cpu = dir(&["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"]);
        let set = dir(&["cpuset.cpus"]);
        let dirs = [cpu.path().to_owned(), set.path().to_owned()];
        all().apply(&dirs).unwrap();
        let read = |dir: &tempfile::TempDir, file: &str| {
            fs::read_to_string(dir.path().join(file)).unwrap()
        };
        assert_eq!(read(&cpu, "cpu.cfs_quota_us"), "150000");
        assert_eq!(read(&cpu, "cpu.cfs_period_us"), "50000");
        assert_eq!(read(&cpu, "cpu.shares"), "1024");
        assert_eq!(read(&set, "cpuset.cpus"), "0-1");

        let v2 = dir(&["cpu.max", "cpu.weight", "cpuset.cpus"]);
        all().apply(&[v2.path().to_owned()]).unwrap();
        assert_eq!(read(&v2, "cpu.max"), "150000 50000");
        assert_eq!(read(&v2, "cpu.weight"), "39");
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_named() {
        let none = dir(&["cpu.shares"]);
        let error = all().apply(&[none.path().to_owned()]).unwrap_err();
        let limit = "CPU period";
        assert!(
            matches!(error, Error::NoController { limit: found } if found == limit),
            "{error}"
        );
    }

    #[test]
    fn lists_of_cpus() {
        for good in ["0", "0-3", "0-1,7", "3,1"] {
            assert!(is_cpu_list(good), "{good}");
        }
        for bad in ["", "3-1", "a", "0,", "-1", "0-"] {
            assert!(!is_cpu_list(bad), "{bad}");
        }
    }
}
