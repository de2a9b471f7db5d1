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
