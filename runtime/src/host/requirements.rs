//! The requirements of a machine for running pods, each with the finding and, if it is not met,
//! the remedy.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Config;

/// Whether a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is met.
    Good,
    /// Pods run, but slower or with fewer features.
    Weak,
    /// Pods cannot run.
    Missing,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// Its subject.
    pub name: &'static str,
    /// The requirement.
    pub needed: String,
    /// The finding.
    pub found: String,
    /// Whether it is met.
    pub verdict: Verdict,
    /// The remedy; empty if it is met.
    pub cure: String,
}

impl Requirement {
    fn new(name: &'static str, needed: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name,
            needed: needed.into(),
            found: found.into(),
            verdict: Verdict::Good,
            cure: String::new(),
        }
    }

    fn unless(mut self, met: bool, verdict: Verdict, cure: impl Into<String>) -> Self {
        if !met {
            self.verdict = verdict;
            self.cure = cure.into();
        }
        self
    }
}

/// Checks this machine for a configuration.
pub fn requirements(config: &Config) -> Vec<Requirement> {
    let mut all = vec![privileges(), kernel()];
    all.extend(hypervisor(config));
    for (name, path) in [
        ("guest kernel", &config.kernel),
        ("guest initrd", &config.initrd),
    ] {
        all.push(
            Requirement::new(name, "a file that can be read", describe(path)).unless(
                path.is_file(),
                Verdict::Missing,
                "`make build` makes it and `make install` puts it there; the configuration can name another",
            ),
        );
    }
    for (name, path) in [
        ("state directory", &config.root),
        ("data directory", &config.data_root),
    ] {
        all.push(directory(name, path));
    }
    all.push(memory(config));
    all.push(user_namespaces());
    all.push(overlayfs());
    if config.hugepages {
        all.push(huge_pages(config));
    }
    all
}

fn privileges() -> Requirement {
    let user = nix::unistd::geteuid();
    Requirement::new("privileges", "root", format!("user {user}")).unless(
        user.is_root(),
        Verdict::Missing,
        "run it as root: mounts and namespaces need it",
    )
}

/// The jail needs `mount_setattr(2)`, which Linux has since 5.12.
fn kernel() -> Requirement {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Requirement::new("host kernel", "Linux 5.12", format!("Linux {release}")).unless(
        version >= (5, 12),
        Verdict::Missing,
        "boot a later kernel",
    )
}

fn hypervisor(config: &Config) -> Vec<Requirement> {
    let vmm = config.vmm.clone().unwrap_or_else(|| "rust-kata-vmm".into());
    let mut all = vec![
        Requirement::new("rust-kata-vmm", "a program", describe(&vmm)).unless(
            is_program(&vmm),
            Verdict::Missing,
            "install it beside this binary, or name it by `vmm` in the configuration",
        ),
    ];
    let needed = "KVM on hardware, or QEMU";
    match ::hypervisor::choice(config.hypervisor) {
        Ok(choice) => {
            all.push(Requirement::new("hypervisor", needed, &choice.reason));
            if choice.vmm.name() == "qemu" {
                all.extend(qemu(&config.qemu));
            }
        }
        Err(error) => all.push(
            Requirement::new("hypervisor", needed, error.to_string()).unless(
                false,
                Verdict::Missing,
                "use hypervisor = \"auto\", or a machine with hardware for virtual machines",
            ),
        ),
    }
    all
}

/// The oldest version of QEMU with which VMs were tested.
const QEMU_VERSION: (u32, u32) = (7, 2);

fn qemu(name: &Path) -> Vec<Requirement> {
    let needed = format!(
        "qemu-system-x86_64, {}.{} or later",
        QEMU_VERSION.0, QEMU_VERSION.1
    );
    let program = |found: String| Requirement::new("QEMU", &*needed, found);
    let cure = "apt install qemu-system-x86, or name it by `qemu` in the configuration";
    let Some(path) = search(name) else {
        let found = format!("no {} in PATH", name.display());
        return vec![program(found).unless(false, Verdict::Missing, cure)];
    };
    let installed = match ::hypervisor::Installed::ask(&path) {
        Ok(installed) => installed,
        Err(error) => {
            let found = format!("{}: {error}", path.display());
            return vec![program(found).unless(false, Verdict::Missing, cure)];
        }
    };
    let (major, minor, version) = installed.version;
    let firmware = installed.firmware.as_deref();
    vec![
        program(format!("{} {version}", path.display())).unless(
            (major, minor) >= QEMU_VERSION,
            Verdict::Missing,
            cure,
        ),
        Requirement::new(
            "QEMU's firmware",
            ::hypervisor::FIRMWARE,
            firmware.map_or("none".into(), |path| path.display().to_string()),
        )
        .unless(
            firmware.is_some(),
            Verdict::Missing,
            "it comes with QEMU: apt install --reinstall qemu-system-data",
        ),
    ]
}

fn directory(name: &'static str, path: &Path) -> Requirement {
    let existing = path
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let writable = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_ok();
    Requirement::new(name, "can be written to", path.display().to_string()).unless(
        writable,
        Verdict::Missing,
        format!(
            "make {} writable, or name another in the configuration",
            existing.display()
        ),
    )
}

fn memory(config: &Config) -> Requirement {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let mib = kib.unwrap_or(0) / 1024;
    let needed = u64::from(config.memory_mib);
    Requirement::new(
        "memory",
        format!("{needed} MiB for a pod"),
        format!("{mib} MiB available"),
    )
    .unless(
        mib >= needed,
        Verdict::Missing,
        "free some, or lower memory_mib in the configuration",
    )
}

fn user_namespaces() -> Requirement {
    const PATH: &str = "/proc/sys/user/max_user_namespaces";
    let text = fs::read_to_string(PATH).unwrap_or_default();
    let most = text.trim().parse::<u64>().unwrap_or(0);
    Requirement::new("user namespaces", "allowed", format!("{most} allowed")).unless(
        most > 0,
        Verdict::Weak,
        "the VMM's jail goes without: sysctl user.max_user_namespaces=10000",
    )
}

fn overlayfs() -> Requirement {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let there = known
        .lines()
        .any(|line| line.trim_start().ends_with("overlay"));
    let found = if there { "there" } else { "not loaded" };
    Requirement::new("overlayfs", "for containers of images", found).unless(
        there,
        Verdict::Weak,
        "modprobe overlay",
    )
}

fn huge_pages(config: &Config) -> Requirement {
    const PATH: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let text = fs::read_to_string(PATH).unwrap_or_default();
    let free = text.trim().parse::<u64>().unwrap_or(0);
    let needed = u64::from(config.memory_mib).div_ceil(2);
    Requirement::new(
        "huge pages",
        format!("{needed} free for a pod"),
        format!("{free} free"),
    )
    .unless(
        free >= needed,
        Verdict::Missing,
        format!("sysctl vm.nr_hugepages={needed} for each pod, or hugepages = false"),
    )
}

/// A program by its path, or by its name in `PATH`.
fn search(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return is_program(name).then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path);
    dirs.map(|dir| dir.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    let data = fs::metadata(path);
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn describe(path: &Path) -> String {
    let missing = if path.exists() { "" } else { " does not exist" };
    let name = path.as_os_str();
    if name == OsStr::new("") {
        return "none".into();
    }
    format!("{}{missing}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_cure() {
        let config = Config {
            kernel: "/nonexistent/vmlinux".into(),
            vmm: Some("/etc/passwd".into()),
            memory_mib: u32::MAX,
            ..Config::default()
        };
        let all = requirements(&config);
        let find = |name| all.iter().find(|r| r.name == name).unwrap();
        for name in ["guest kernel", "rust-kata-vmm", "memory"] {
            let found = find(name);
            assert_eq!(found.verdict, Verdict::Missing, "{found:?}");
            assert!(!found.cure.is_empty(), "{found:?}");
        }
        assert!(find("guest kernel").found.contains("/nonexistent/vmlinux"));
        for met in all.iter().filter(|r| r.verdict == Verdict::Good) {
            assert!(met.cure.is_empty(), "{met:?}");
        }
    }

    #[test]
    fn a_qemu_of_no_use_is_missing() {
        for name in ["no-such-qemu", "/bin/true"] {
            let all = qemu(Path::new(name));
            assert_eq!(all[0].verdict, Verdict::Missing, "{all:?}");
            assert!(all[0].cure.contains("qemu-system-x86"), "{all:?}");
        }
    }

    #[test]
    fn programs_are_found_by_name_and_path() {
        assert!(search(Path::new("sh")).is_some());
        assert!(search(Path::new("/bin/sh")).is_some());
        assert!(search(Path::new("no-such-program")).is_none());
        assert!(search(Path::new("/etc/passwd")).is_none());
    }
}
