//! The configuration: one documented TOML file (`runtime/config.toml` holds
//! the defaults) and the pod annotations that may override parts of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypervisor::HypervisorKind;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// Names a configuration file instead of the standard places.
pub const CONFIG_ENV: &str = "RUST_KATA_CONFIG";

/// The shipped file: every key with its default and what it is for.
pub const DEFAULT_CONFIG: &str = include_str!("../config.toml");

/// Where an operator's configuration lives.
pub const SYSTEM_CONFIG: &str = "/etc/rust-kata/config.toml";

/// Everything that can be configured. See `config.toml` for each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The state directory of what runs.
    pub root: PathBuf,
    /// Pods, images and volumes of `rust-kata`: what outlives a reboot.
    pub data_root: PathBuf,
    /// Which hypervisor runs the VMs.
    pub hypervisor: HypervisorKind,
    /// The guest kernel, ELF with a PVH entry.
    pub kernel: PathBuf,
    /// The guest's initrd.
    pub initrd: PathBuf,
    /// Further words for the kernel command line.
    pub kernel_args: Vec<String>,
    /// Memory of a VM without its containers' limits, in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs of a VM, at the least.
    pub vcpus: u32,
    /// Virtual CPUs that a VM can grow to; 0: no more than it starts with.
    pub max_vcpus: u32,
    /// Memory that a VM can grow to, in MiB; 0: no more than it starts with.
    pub max_memory_mib: u32,
    /// Whether a VM's memory lies on the host's reserved huge pages.
    pub hugepages: bool,
    /// QEMU: a path, or a name looked up in PATH.
    pub qemu: PathBuf,
    /// `rust-kata-vmm`; beside the running binary if not set.
    pub vmm: Option<PathBuf>,
    /// Kernel and agent messages on the console, verbose logs.
    pub debug: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// Deadlines, in whole seconds in the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the start of the VM until the agent reports.
    #[serde(deserialize_with = "seconds", serialize_with = "to_seconds")]
    pub boot: Duration,
    /// An agent call that builds or starts something.
    #[serde(deserialize_with = "seconds", serialize_with = "to_seconds")]
    pub create: Duration,
    /// Any other agent call.
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
            kernel: "vmlinux".into(),
            initrd: "initrd.img".into(),
            kernel_args: Vec::new(),
            memory_mib: 256,
            vcpus: 1,
            max_vcpus: 0,
            max_memory_mib: 0,
            hugepages: false,
            qemu: "qemu-system-x86_64".into(),
            vmm: None,
            debug: false,
            timeouts: Timeouts::default(),
        }
    }
}

impl Config {
    /// Loads the first configuration found: `explicit`, `$RUST_KATA_CONFIG`,
    /// `/etc/rust-kata/config.toml`, the one of the installation; built-in
    /// defaults where there is none.
    ///
    /// # Errors
    /// [`Error::BadFile`] when a named file is missing, is not TOML, or has an
    /// unknown key or a value out of range.
    pub fn load(explicit: Option<&Path>) -> Result<Self> {
        Self::load_with_origin(explicit).map(|(config, _)| config)
    }

    /// As [`Config::load`], and the file that it is from, if from any.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_origin(explicit: Option<&Path>) -> Result<(Self, Option<PathBuf>)> {
        let exe = std::env::current_exe()
            .map_err(|e| Error::Internal(format!("Cannot find the running binary: {e}")))?;
        let bin = exe.parent().unwrap_or(Path::new("/"));
        let share = bin
            .parent()
            .unwrap_or(Path::new("/"))
            .join("share/rust-kata");
        let named = explicit
            .map(Path::to_owned)
            .or_else(|| std::env::var_os(CONFIG_ENV).map(PathBuf::from));
        let path = named.or_else(|| {
            [PathBuf::from(SYSTEM_CONFIG), share.join("config.toml")]
                .into_iter()
                .find(|p| p.exists())
        });
        let mut config = match &path {
            Some(path) => Self::parse(path)?,
            None => Self::default(),
        };
        for path in [&mut config.kernel, &mut config.initrd] {
            *path = share.join(&*path);
        }
        config.vmm.get_or_insert_with(|| bin.join("rust-kata-vmm"));
        Ok((config, path))
    }

    fn parse(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::bad_file(path, format!("cannot read the configuration: {e}")))?;
        let config: Self =
            toml::from_str(&text).map_err(|e| Error::bad_file(path, one_line(&text, &e)))?;
        for (key, dir) in [("root", &config.root), ("data_root", &config.data_root)] {
            if !dir.is_absolute() {
                return Err(Error::bad_file(
                    path,
                    format!("{key} must be an absolute path"),
                ));
            }
        }
        Ok(config)
    }

    /// `rust-kata`, which owns pods: beside the running binary.
    pub(crate) fn owner_program(&self) -> Result<PathBuf> {
        let exe = std::env::current_exe()
            .map_err(|e| Error::Internal(format!("Cannot find the running binary: {e}")))?;
        let program = exe.with_file_name("rust-kata");
        if !program.exists() {
            return Err(Error::Invalid(format!(
                "{} is not there: install rust-kata beside {}",
                program.display(),
                exe.display()
            )));
        }
        Ok(program)
    }

    /// Applies the annotations of a pod: `io.rust-kata.memory_mib`,
    /// `io.rust-kata.vcpus`, or Kata's names for the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a value is not a number.
    pub fn with_annotations(mut self, annotations: &HashMap<String, String>) -> Result<Self> {
        let number = |names: [&str; 2]| -> Result<Option<u32>> {
            let Some((name, value)) = names
                .iter()
                .find_map(|n| annotations.get(*n).map(|v| (*n, v)))
            else {
                return Ok(None);
            };
            value.trim().parse().map(Some).map_err(|_| {
                Error::Invalid(format!(
                    "Annotation {name}: {value:?} is not a whole number"
                ))
            })
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

/// The error and its place as one line: it is shown as part of others.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().trim().replace('\n', "; ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return problem;
    };
    let index = before.matches('\n').count();
    let line = text.lines().nth(index).unwrap_or_default().trim();
    format!("line {} ({line}): {problem}", index + 1)
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
    fn unknown_keys_and_bad_values_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        for (text, want) in [
            ("memroy_mib = 1", "memroy_mib"),
            ("[timeouts]\nboot = 0", "0 is not a number of seconds"),
            ("root = \"here\"", "absolute"),
            ("vcpus = -1", "vcpus"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(Some(&path)).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
            assert!(error.contains("c.toml") && error.contains(want), "{error}");
        }
    }

    #[test]
    fn annotations_override_or_are_refused_by_name() {
        let with = |k: &str, v: &str| {
            Config::default().with_annotations(&HashMap::from([(k.to_owned(), v.to_owned())]))
        };
        let c = with("io.katacontainers.config.hypervisor.default_memory", "512").unwrap();
        assert_eq!(c.memory_mib, 512);
        assert_eq!(with("io.rust-kata.vcpus", "3").unwrap().vcpus, 3);
        let error = with("io.rust-kata.vcpus", "many").unwrap_err().to_string();
        assert!(error.contains("io.rust-kata.vcpus"), "{error}");
    }
}
