//! The first work of PID 1: a root that can be pivoted, the base mounts, cgroup v2, modules,
//! the memory policy and the loopback interface.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::cgroup;
use crate::error::{Context, Result};
use crate::guest::cpu_memory;
use crate::guest::modules;
use crate::logging;

/// The most open files of the agent: three streams and pipes per process.
const MAX_FILES: u64 = 65_536;

/// Hosts may give containers any RLIMIT_NOFILE that their own kernel allows.
const NR_OPEN: &str = "1073741816";

struct Mount {
    source: &'static str,
    target: &'static str,
    fstype: &'static str,
    flags: MsFlags,
    data: Option<&'static str>,
}

const fn entry(
    source: &'static str,
    target: &'static str,
    fstype: &'static str,
    flags: MsFlags,
    data: Option<&'static str>,
) -> Mount {
    Mount {
        source,
        target,
        fstype,
        flags,
        data,
    }
}

const QUIET: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

const MOUNTS: &[Mount] = &[
    entry("proc", "/proc", "proc", QUIET, None),
    entry("sysfs", "/sys", "sysfs", QUIET, None),
    entry(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MsFlags::MS_NOSUID,
        Some("mode=0755"),
    ),
    entry(
        "devpts",
        "/dev/pts",
        "devpts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        Some("gid=5,mode=0620,ptmxmode=0666"),
    ),
    entry(
        "shm",
        "/dev/shm",
        "tmpfs",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=1777"),
    ),
    entry(
        "run",
        "/run",
        "tmpfs",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=0755"),
    ),
    entry(
        "tmp",
        "/tmp",
        "tmpfs",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=1777"),
    ),
    entry("cgroup2", cgroup::ROOT, "cgroup2", QUIET, None),
];

const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Sets the guest up until the agent can connect to the host.
pub fn set_up() -> Result<()> {
    leave_initramfs_root()?;
    for mount in MOUNTS {
        mount_one(mount)?;
    }
    for (to, link) in LINKS {
        match symlink(to, link) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).path(*link)?,
            _ => {}
        }
    }
    let cmdline = fs::read_to_string("/proc/cmdline").path("/proc/cmdline")?;
    logging::start(&cmdline);

    cpu_memory::set_policy(Path::new(cpu_memory::SYS));
    modules::load(Path::new(modules::MODULES), modules::BOOT).path(modules::MODULES)?;
    cgroup::enable_controllers(Path::new(cgroup::ROOT))?;
    if let Err(e) = loopback_up() {
        log::error!("lo: {e}");
    }
    if let Err(e) = fs::write("/proc/sys/fs/nr_open", NR_OPEN) {
        log::warn!("fs.nr_open: {e}");
    }
    if let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES) {
        log::warn!("open files of the agent: {e}");
    }
    Ok(())
}

/// The kernel's rootfs cannot be the old root of a pivot_root(2), which every container needs.
/// A bind mount of it, moved over it, can.
fn leave_initramfs_root() -> Result<()> {
    const NEW_ROOT: &str = "/.root";
    fs::create_dir_all(NEW_ROOT).path(NEW_ROOT)?;
    mount(
        Some("/"),
        NEW_ROOT,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .path(NEW_ROOT)?;
    nix::unistd::chdir(NEW_ROOT).path(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).path("/")?;
    nix::unistd::chroot(".").path(NEW_ROOT)?;
    nix::unistd::chdir("/").path("/")
}

fn mount_one(m: &Mount) -> Result<()> {
    fs::create_dir_all(m.target).path(m.target)?;
    mount(Some(m.source), m.target, Some(m.fstype), m.flags, m.data)
        .what(format!("mount {} on {}", m.fstype, m.target))
}

fn loopback_up() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new("lo").expect("no NUL in it");
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open and the request lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
