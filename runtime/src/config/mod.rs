//! The configuration: one documented TOML file (`runtime/config.toml` holds the defaults), its
//! drop-ins, and the pod annotations that override some keys.

mod load;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypervisor::HypervisorKind;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::load::Loaded;
use crate::error::{ConfigError, Error, Result};

/// The environment variable that names a configuration file in place of the standard ones.
pub const CONFIG_ENV: &str = "RUST_KATA_CONFIG";

/// The shipped file: every key with its default and its meaning.
pub const DEFAULT_CONFIG: &str = include_str!("../../config.toml");

/// The path of an operator's configuration.
pub const SYSTEM_CONFIG: &str = "/etc/rust-kata/config.toml";

/// The configuration. See `config.toml` for each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The state directory of running pods.
    pub root: PathBuf,
    /// The directory of `rust-kata`'s pods, images and volumes, which survive a reboot.
    pub data_root: PathBuf,
    /// The hypervisor of the VMs.
    pub hypervisor: HypervisorKind,
    /// How the cgroups of `rust-kata`'s pods are named.
    pub cgroup_manager: CgroupManager,
    /// The guest kernel, ELF with a PVH entry.
    pub kernel: PathBuf,
    /// The guest's initrd.
    pub initrd: PathBuf,
    /// Additional words of the kernel command line.
    pub kernel_args: Vec<String>,
    /// Memory of a VM without its containers' limits, in MiB.
    pub memory_mib: u32,
    /// The least number of virtual CPUs of a VM.
    pub vcpus: u32,
    /// The largest number of virtual CPUs of a VM; 0: the number that it starts with.
    pub max_vcpus: u32,
    /// The largest memory of a VM, in MiB; 0: the size that it starts with.
    pub max_memory_mib: u32,
    /// Whether a VM's memory uses the host's reserved huge pages.
    pub hugepages: bool,
    /// The largest number of files of the host that a VM may hold at a time.
    pub max_shared_files: u32,
    /// QEMU: a path, or a name looked up in PATH.
    pub qemu: PathBuf,
    /// The path of `rust-kata-vmm`; if not set, it is beside the running binary.
    pub vmm: Option<PathBuf>,
    /// The path of `rust-kata`, which owns started pods; if not set, it is beside the running
    /// binary.
    pub rust_kata: Option<PathBuf>,
    /// Whether kernel and agent messages go to the console, and logs are verbose.
    pub debug: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// How the host's cgroups are named and nested, as podman's `cgroup_manager`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupManager {
    /// By paths below the root of the hierarchy.
    #[default]
    Cgroupfs,
    /// By the slices of systemd, in which each pod is a scope.
    Systemd,
}

impl CgroupManager {
    /// The parent of the cgroups of pods that name none.
    pub fn default_parent(self) -> &'static Path {
        Path::new(match self {
            Self::Cgroupfs => "/rust-kata",
            Self::Systemd => "machine.slice",
        })
    }
}

impl std::fmt::Display for CgroupManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}

/// Deadlines, in whole seconds in the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the start of the VM until the agent reports.
    #[serde(deserialize_with = "seconds", serialize_with = "to_seconds")]
    pub boot: Duration,
    /// For an agent call that builds or starts something.
    #[serde(deserialize_with = "seconds", serialize_with = "to_seconds")]
    pub create: Duration,
    /// For any other agent call.
    #[serde(deserialize_with = "seconds", serialize_with = "to_seconds")]
    pub call: Duration,
}

fn seconds<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Duration, D::Error> {
    match u64::deserialize(d)? {
        n @ 1..=3600 => Ok(Duration::from_secs(n)),
        n => Err(serde::de::Error::custom(format!(
            "{n} is not a number of seconds from 1 to 3600"
        ))),
    }
}

fn to_seconds<S: serde::Serializer>(d: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(d.as_secs())
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(120),
            create: Duration::from_secs(60),
            call: Duration::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/run/rust-kata".into(),
            data_root: "/var/lib/rust-kata".into(),
            hypervisor: HypervisorKind::Auto,
            cgroup_manager: CgroupManager::default(),
            kernel: "vmlinux".into(),
            initrd: "initrd.img".into(),
            kernel_args: Vec::new(),
            memory_mib: 256,
            vcpus: 1,
            max_vcpus: 0,
            max_memory_mib: 0,
            hugepages: false,
            max_shared_files: hypervisor::Share::FILES,
            qemu: "qemu-system-x86_64".into(),
            vmm: None,
            rust_kata: None,
            debug: false,
            timeouts: Timeouts::default(),
        }
    }
}

impl Config {
    /// The path of `rust-kata`, which owns pods.
    pub(crate) fn owner_program(&self) -> Result<PathBuf> {
        let exe = std::env::current_exe().map_err(ConfigError::NoBinary)?;
        let beside = || exe.with_file_name("rust-kata");
        let program = self.rust_kata.clone().unwrap_or_else(beside);
        if !program.exists() {
            let beside = exe;
            return Err(ConfigError::NotInstalled { program, beside }.into());
        }
        Ok(program)
    }

    /// Applies the annotations of a pod: `io.rust-kata.memory_mib`, `io.rust-kata.vcpus`, or
    /// Kata's names for the same.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if a value is not a number.
    pub fn with_annotations(mut self, annotations: &HashMap<String, String>) -> Result<Self> {
        let number = |names: [&str; 2]| -> Result<Option<u32>> {
            let Some((name, value)) = names
                .iter()
                .find_map(|n| annotations.get(*n).map(|v| (*n, v)))
            else {
                return Ok(None);
            };
            let number = value.trim().parse().map(Some);
            number
                .map_err(|_| Error::invalid(format!("annotation {name}"), value, "a whole number"))
        };
        if let Some(n) = number([
            "io.rust-kata.memory_mib",
            "io.katacontainers.config.hypervisor.default_memory",
        ])? {
            self.memory_mib = n;
        }
        if let Some(n) = number([
            "io.rust-kata.vcpus",
            "io.katacontainers.config.hypervisor.default_vcpus",
        ])? {
            self.vcpus = n;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_holds_the_defaults() {
        let shipped: Config = toml::from_str(DEFAULT_CONFIG).unwrap();
        let text = |c: &Config| toml::to_string(c).unwrap();
        assert_eq!(text(&shipped), text(&Config::default()));
    }

    #[test]
    fn annotations_override_or_are_refused_by_name() {
        let with = |k: &str, v: &str| {
            Config::default().with_annotations(&HashMap::from([(k.to_owned(), v.to_owned())]))
        };
        let c = with("io.katacontainers.config.hypervisor.default_memory", "512").unwrap();
        assert_eq!(c.memory_mib, 512);
        assert_eq!(with("io.rust-kata.vcpus", "3").unwrap().vcpus, 3);
        let error = with("io.rust-kata.vcpus", "many").unwrap_err();
        assert!(
            matches!(&error, Error::InvalidValue { field, .. } if field.contains("io.rust-kata.vcpus")),
            "{error}"
        );
    }
}
