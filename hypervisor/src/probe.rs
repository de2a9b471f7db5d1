//! Checks whether this machine runs virtual machines in hardware.
//!
//! The existence of `/dev/kvm` does not prove it: a `kvm_pvm` module provides this file, too,
//! but emulates the guest's kernel code one instruction at a time, and the file may be of
//! another kind. It must support KVM's API; then the CPU's flags decide.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The result of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmSupport {
    /// Guests run in hardware, by this CPU feature (`vmx` or `svm`).
    Hardware(&'static str),
    /// KVM cannot be used, for this reason.
    Unusable(String),
}

/// The files that the probe reads; tests use others.
struct HostFiles {
    device: PathBuf,
    pvm_module: PathBuf,
    cpuinfo: PathBuf,
    api_version: fn(&Path) -> Option<i32>,
}

/// Checks this machine.
pub fn probe() -> KvmSupport {
    let host = HostFiles {
        device: "/dev/kvm".into(),
        pvm_module: "/sys/module/kvm_pvm".into(),
        cpuinfo: "/proc/cpuinfo".into(),
        api_version,
    };
    host.probe()
}

/// A device's answer to `KVM_GET_API_VERSION` (KVM API 4.1).
fn api_version(device: &Path) -> Option<i32> {
    let path = CString::new(device.as_os_str().as_bytes()).ok()?;
    let kvm = kvm_ioctls::Kvm::new_with_path(path).ok()?;
    Some(kvm.get_api_version())
}

impl HostFiles {
    fn probe(&self) -> KvmSupport {
        let device = self.device.display();
        if let Err(err) = OpenOptions::new().read(true).write(true).open(&self.device) {
            return KvmSupport::Unusable(match err.kind() {
                io::ErrorKind::NotFound => format!("{device} does not exist"),
                io::ErrorKind::PermissionDenied => format!("{device} cannot be opened: {err}"),
                _ => format!("{device} cannot be used: {err}"),
            });
        }
        if self.pvm_module.exists() {
            return KvmSupport::Unusable(format!(
                "{device} is kvm_pvm, which emulates an ordinary guest kernel"
            ));
        }
        if (self.api_version)(&self.device) != Some(kvm_bindings::KVM_API_VERSION as i32) {
            return KvmSupport::Unusable(format!("{device} does not speak KVM's API"));
        }
        match hardware_flag(&self.cpuinfo) {
            Some(flag) => KvmSupport::Hardware(flag),
            None => KvmSupport::Unusable(format!(
                "{device} exists, but the CPU has neither vmx nor svm"
            )),
        }
    }
}

fn hardware_flag(cpuinfo: &Path) -> Option<&'static str> {
    let text = std::fs::read_to_string(cpuinfo).ok()?;
    let flags = text.lines().find(|line| line.starts_with("flags"))?;
    flags.split_whitespace().find_map(|flag| match flag {
        "vmx" => Some("vmx"),
        "svm" => Some("svm"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(dir: &Path, flags: &str) -> HostFiles {
        let host = HostFiles {
            device: dir.join("kvm"),
            pvm_module: dir.join("kvm_pvm"),
            cpuinfo: dir.join("cpuinfo"),
            api_version: |_| Some(12),
        };
        std::fs::write(
            &host.cpuinfo,
            format!("model\t: 1\nflags\t\t: fpu {flags}\n"),
        )
        .unwrap();
        host
    }

    #[test]
    fn hardware_needs_device_and_flag() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), "sse svm");

        assert!(
            matches!(host.probe(), KvmSupport::Unusable(reason) if reason.contains("not exist"))
        );
        std::fs::write(&host.device, "").unwrap();
        assert_eq!(host.probe(), KvmSupport::Hardware("svm"));
    }

    #[test]
    fn pvm_is_not_hardware() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), "vmx");
        std::fs::write(&host.device, "").unwrap();
        std::fs::create_dir(&host.pvm_module).unwrap();

        assert!(matches!(host.probe(), KvmSupport::Unusable(reason) if reason.contains("kvm_pvm")));
    }

    #[test]
    fn another_device_in_its_place_is_not_kvm() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = host(dir.path(), "svm");
        host.device = "/dev/null".into();
        host.api_version = api_version;

        assert!(matches!(host.probe(), KvmSupport::Unusable(reason) if reason.contains("API")));
    }

    #[test]
    fn flag_must_match_as_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), "svm_lock xvmx");
        std::fs::write(&host.device, "").unwrap();

        assert!(matches!(host.probe(), KvmSupport::Unusable(reason) if reason.contains("neither")));
    }

    #[test]
    fn either_vendors_flag_is_hardware() {
        let dir = tempfile::tempdir().unwrap();
        for (flags, flag) in [("a vmx b", "vmx"), ("svm", "svm")] {
            let host = host(dir.path(), flags);
            std::fs::write(&host.device, "").unwrap();
            assert_eq!(host.probe(), KvmSupport::Hardware(flag));
        }
        let mut none = host(dir.path(), "vmx");
        none.cpuinfo = dir.path().join("nothing");
        assert!(matches!(none.probe(), KvmSupport::Unusable(why) if why.contains("neither")));
        let mut old = host(dir.path(), "vmx");
        old.api_version = |_| Some(11);
        assert!(matches!(old.probe(), KvmSupport::Unusable(why) if why.contains("API")));
    }

    #[test]
    fn the_reason_is_that_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = host(dir.path(), "vmx");
        host.device = dir.path().into();
        assert!(matches!(host.probe(), KvmSupport::Unusable(why) if why.contains("be used")));
        assert_eq!(api_version(dir.path()), None);
        assert_eq!(api_version(Path::new("/nonexistent/kvm")), None);
        let real = Path::new("/dev/kvm");
        if let Ok(kvm) = test_support::kvm() {
            drop(kvm);
            assert_eq!(api_version(real), Some(12));
        }
    }
}
