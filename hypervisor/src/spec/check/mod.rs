//! The checks behind [`VmSpec::validate`](super::VmSpec::validate).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{HypervisorKind, SpecError, ValidSpec, VmSpec};
use crate::probe::{self, KvmSupport};

/// `sun_path` of unix(7), with its terminating zero.
const SUN_PATH: usize = 108;
/// The suffix of the vsock socket: `_` and a port of at most ten digits.
const PORT_SUFFIX: usize = 11;
/// A guest with a very small initrd boots with this.
const MIN_MEMORY_MIB: u32 = 64;
/// The limit of the built-in VMM's tables.
const MAX_VCPUS: u32 = crate::machine::MAX_VCPUS;
/// The smallest block of memory that Linux plugs on x86-64.
const HOTPLUG_MIB: u32 = 128;
/// x86 `COMMAND_LINE_SIZE`, less the options that the backend adds.
const MAX_CMDLINE: usize = 2048 - 512;
/// virtio 1.2 §5.11.4: the tag field.
const TAG_LEN: usize = 36;
/// e_machine of x86-64 in the ELF header.
const EM_X86_64: u16 = 62;

pub(super) fn validate(mut spec: VmSpec) -> Result<ValidSpec, SpecError> {
    if !is_name(&spec.id, 128) {
        return Err(SpecError::Id(spec.id));
    }
    if !is_name(&spec.share.tag, TAG_LEN) {
        return Err(SpecError::Tag(spec.share.tag));
    }
    directory("VM directory", &mut spec.dir, "create it first")?;
    directory("share", &mut spec.share.dir, "create the directory first")?;
    socket(&spec.vsock_uds)?;
    if let Some(netns) = &spec.netns {
        readable("network namespace", netns, "create it, or leave it out")?;
    }
    let images =
        kernel(&spec.kernel)? + readable("initial RAM disk", &spec.initrd, "run `make guest`")?;
    memory(spec.memory_mib, images)?;
    vcpus(spec.vcpus)?;
    if !(spec.vcpus..=MAX_VCPUS).contains(&spec.max_vcpus) {
        return Err(SpecError::MaxVcpus {
            given: spec.max_vcpus,
            min: spec.vcpus,
            max: MAX_VCPUS,
        });
    }
    if !spec.hotplug_mib.is_multiple_of(HOTPLUG_MIB) {
        return Err(SpecError::Hotplug(spec.hotplug_mib));
    }
    cmdline(&spec.cmdline)?;
    spec.vmm_binary = binary(&spec.vmm_binary, "install rust-kata or set [vmm] binary")?;
    if needs_qemu(spec.hypervisor) {
        spec.qemu_binary = binary(
            &spec.qemu_binary,
            "install qemu-system-x86 or set [qemu] binary",
        )?;
    }
    Ok(ValidSpec(spec))
}

/// A host whose VMs all use the built-in VMM does not need QEMU.
fn needs_qemu(kind: HypervisorKind) -> bool {
    match kind {
        HypervisorKind::Qemu => true,
        HypervisorKind::Kvm => false,
        HypervisorKind::Auto => matches!(probe::probe(), KvmSupport::Unusable(_)),
    }
}

fn is_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Checks a directory and makes its path absolute, since the VM's processes have another
/// working directory.
fn directory(what: &'static str, path: &mut PathBuf, cure: &'static str) -> Result<(), SpecError> {
    let fail = |source| SpecError::Path {
        what,
        path: path.clone(),
        source,
        cure,
    };
    let absolute = fs::canonicalize(&*path).map_err(fail)?;
    if !absolute.is_dir() {
        return Err(fail(io::ErrorKind::NotADirectory.into()));
    }
    *path = absolute;
    Ok(())
}

/// Opens a file as the VM's processes do; returns its size.
fn readable(what: &'static str, path: &Path, cure: &'static str) -> Result<u64, SpecError> {
    File::open(path)
        .and_then(|file| file.metadata())
        .and_then(|meta| {
            if meta.is_dir() {
                Err(io::ErrorKind::IsADirectory.into())
            } else {
                Ok(meta.len())
            }
        })
        .map_err(|source| SpecError::Path {
            what,
            path: path.to_owned(),
            source,
            cure,
        })
}

fn kernel(path: &Path) -> Result<u64, SpecError> {
    let size = readable("guest kernel", path, "run `make guest`")?;
    let bad = |reason| SpecError::Kernel {
        path: path.to_owned(),
        reason,
    };
    let mut header = [0; 20];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .map_err(|_| bad("is too short"))?;
    if &header[..4] != b"\x7fELF" {
        return Err(bad("is not an ELF file"));
    }
    if header[4] != 2 || u16::from_le_bytes([header[18], header[19]]) != EM_X86_64 {
        return Err(bad("is not for x86-64"));
    }
    Ok(size)
}

fn socket(path: &Path) -> Result<(), SpecError> {
    let max = SUN_PATH - 1 - PORT_SUFFIX;
    let len = path.as_os_str().len();
    if len > max {
        return Err(SpecError::SocketPath {
            path: path.to_owned(),
            len,
            max,
        });
    }
    let parent = path.parent().filter(|p| p.is_absolute());
    match parent.map(fs::metadata) {
        Some(Ok(meta)) if meta.is_dir() => Ok(()),
        Some(Err(source)) => Err(SpecError::Path {
            what: "directory of the vsock socket",
            path: path.to_owned(),
            source,
            cure: "create it first",
        }),
        _ => Err(SpecError::Path {
            what: "vsock socket",
            path: path.to_owned(),
            source: io::ErrorKind::InvalidInput.into(),
            cure: "give an absolute path in an existing directory",
        }),
    }
}

/// The images must fit well: for a short time, when the initrd becomes a tmpfs, they need twice
/// their size.
fn memory(given: u32, images: u64) -> Result<(), SpecError> {
    let images_mib = u32::try_from(images.div_ceil(1 << 20)).unwrap_or(u32::MAX / 2);
    let min = MIN_MEMORY_MIB.max(images_mib.saturating_mul(2));
    let max = host_memory_mib();
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(SpecError::Memory { given, min, max })
    }
}

fn host_memory_mib() -> u32 {
    let kib = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(u64::from(u32::MAX) << 10);
    u32::try_from(kib >> 10).unwrap_or(u32::MAX)
}

fn vcpus(given: u32) -> Result<(), SpecError> {
    let host = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    // Some overcommit is harmless, and lets one configuration serve many hosts.
    let max = MAX_VCPUS.min(host.saturating_mul(4).max(8));
    if (1..=max).contains(&given) {
        Ok(())
    } else {
        Err(SpecError::Vcpus { given, max })
    }
}

fn cmdline(words: &[String]) -> Result<(), SpecError> {
    for word in words {
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SpecError::Cmdline(word.clone()));
        }
    }
    let len = words.iter().map(|word| word.len() + 1).sum();
    if len > MAX_CMDLINE {
        return Err(SpecError::CmdlineLength {
            len,
            max: MAX_CMDLINE,
        });
    }
    Ok(())
}

/// Finds a program: a path with a slash is used as it is, a bare name is searched in `PATH`.
fn binary(name: &Path, cure: &'static str) -> Result<PathBuf, SpecError> {
    let missing = |place| SpecError::Binary {
        name: name.display().to_string(),
        place,
        cure,
    };
    if name.as_os_str().as_bytes().contains(&b'/') {
        return match fs::canonicalize(name) {
            Ok(path) if is_executable(&path) => Ok(path),
            Ok(_) => Err(missing(" as an executable file")),
            Err(_) => Err(missing("")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(&path, name).ok_or_else(|| missing(" in PATH"))
}

fn find_in(path: &OsStr, name: &Path) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
pub(crate) mod tests;
