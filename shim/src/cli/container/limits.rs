//! The arguments for the limits of a container.

use clap::Args;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use runtime::{Error, Result};

use crate::cli::error::spec_error;
use crate::cli::values::bytes;

/// The requirement of a command that changes limits; for its error.
pub(crate) const LIMIT: &str = "a limit, such as --memory 512m";

/// The limits of a container.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Limits {
    /// Memory limit: NUMBER[k|m|g]
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// Number of CPUs, such as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// CPU weight relative to the other containers of the pod, 2 to 262144
    #[arg(long, short = 'c', value_name = "SHARES")]
    cpu_shares: Option<u64>,

    /// Maximum number of processes; -1: unlimited
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

impl Limits {
    /// Whether no limit is given.
    pub(crate) fn is_empty(&self) -> bool {
        let cpu = self.cpus.is_none() && self.cpu_shares.is_none();
        cpu && self.memory.is_none() && self.pids_limit.is_none()
    }

    /// The limits as the OCI runtime specification defines them.
    pub(crate) fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(memory) = &self.memory {
            let memory = LinuxMemoryBuilder::default().limit(bytes(memory)? as i64);
            resources = resources.memory(memory.build().map_err(spec_error)?);
        }
        if self.cpus.is_some() || self.cpu_shares.is_some() {
            let mut cpu = LinuxCpuBuilder::default();
            if let Some(cpus) = self.cpus {
                if !(0.01..=512.0).contains(&cpus) {
                    return Err(Error::invalid("number of CPUs", cpus, "0.01 to 512"));
                }
                cpu = cpu.period(100_000u64).quota((cpus * 100_000.0) as i64);
            }
            if let Some(shares) = self.cpu_shares {
                if !(2..=262_144).contains(&shares) {
                    return Err(Error::invalid("CPU shares", shares, "2 to 262144"));
                }
                cpu = cpu.shares(shares);
            }
            resources = resources.cpu(cpu.build().map_err(spec_error)?);
        }
        if let Some(limit) = self.pids_limit {
            let pids = LinuxPidsBuilder::default().limit(limit);
            resources = resources.pids(pids.build().map_err(spec_error)?);
        }
        resources.build().map_err(spec_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    }

    fn refusal(change: impl FnOnce(&mut Limits)) -> String {
        limits(change).resources().unwrap_err().to_string()
    }

    #[test]
    fn each_alone_is_a_limit() {
        assert!(Limits::default().is_empty());
        assert!(!limits(|l| l.memory = Some("1m".into())).is_empty());
        assert!(!limits(|l| l.cpus = Some(1.0)).is_empty());
        assert!(!limits(|l| l.cpu_shares = Some(2)).is_empty());
        assert!(!limits(|l| l.pids_limit = Some(1)).is_empty());
    }

    #[test]
    fn only_what_is_given_is_in_the_resources() {
        let none = Limits::default().resources().unwrap();
        assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());

        let memory = limits(|l| l.memory = Some("64m".into()))
            .resources()
            .unwrap();
        assert_eq!(memory.memory().unwrap().limit(), Some(64 << 20));
        assert!(memory.cpu().is_none() && memory.pids().is_none());
        let cpus = limits(|l| l.cpus = Some(1.5)).resources().unwrap();
        let cpu = cpus.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(cpu.shares(), None);
        let shares = limits(|l| l.cpu_shares = Some(512)).resources().unwrap();
        let cpu = shares.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.shares()), (None, Some(512)));
        let pids = limits(|l| l.pids_limit = Some(-1)).resources().unwrap();
        assert_eq!(pids.pids().unwrap().limit(), -1);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bounds() {
        // The kernel's own bounds (Documentation/admin-guide/cgroup-v1, cpu.shares).
        for shares in [2, 262_144] {
            limits(|l| l.cpu_shares = Some(shares)).resources().unwrap();
        }
        for shares in [0, 1, 262_145, u64::MAX] {
            let said = refusal(|l| l.cpu_shares = Some(shares));
            assert!(said.contains("expected 2 to 262144"), "{shares}: {said}");
        }
        for cpus in [0.01, 512.0] {
            limits(|l| l.cpus = Some(cpus)).resources().unwrap();
        }
        for cpus in [0.0, 0.009, 512.1, -1.0, f64::NAN, f64::INFINITY] {
            let said = refusal(|l| l.cpus = Some(cpus));
            assert!(said.contains("expected 0.01 to 512"), "{cpus}: {said}");
        }
        assert!(refusal(|l| l.memory = Some("0".into())).contains("invalid size"));
    }
}
