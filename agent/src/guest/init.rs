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
        link_one(to, Path::new(link))?;
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

fn link_one(to: &str, link: &Path) -> Result<()> {
    match symlink(to, link) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.path(link),
    }
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

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use test_support::{require, root};

    use super::*;

    /// Runs `work` where the root is an empty directory, in a mount and a network namespace.
    fn in_an_empty_root(work: impl FnOnce() + Send) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let inside = || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            mount(none, &path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            nix::unistd::chroot(&path).unwrap();
            nix::unistd::chdir("/").unwrap();
            work();
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap();
    }

    /// The mounts of this thread: the mount point, the options and the type.
    fn mounts() -> Vec<(String, String, String)> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let dash = words.iter().position(|word| *word == "-").unwrap();
            [words[4], words[5], words[dash + 1]]
                .map(String::from)
                .into()
        };
        table.lines().map(line).collect()
    }

    #[test]
    fn mounts_are_made_as_the_table_says() {
        require!(root());
        in_an_empty_root(|| {
            // The others are the machine's own, whatever the namespace.
            let ours = |mount: &&Mount| !["devtmpfs", "cgroup2", "sysfs"].contains(&mount.fstype);
            let ours: Vec<&Mount> = MOUNTS.iter().filter(ours).collect();
            for mount in &ours {
                mount_one(mount).unwrap();
            }
            let mounts = mounts();
            for mount in ours {
                let found = mounts.iter().find(|(point, ..)| point == mount.target);
                let (_, options, fstype) = found.unwrap_or_else(|| panic!("{}", mount.target));
                assert_eq!(fstype, mount.fstype);
                for (flag, option) in [
                    (MsFlags::MS_NOSUID, "nosuid"),
                    (MsFlags::MS_NODEV, "nodev"),
                    (MsFlags::MS_NOEXEC, "noexec"),
                ] {
                    let set = options.split(',').any(|o| o == option);
                    assert_eq!(set, mount.flags.contains(flag), "{} {option}", mount.target);
                }
            }
            let unknown = entry("x", "/x", "no-such-type", QUIET, None);
            let refused = mount_one(&unknown).unwrap_err().to_string();
            assert!(
                refused.starts_with("mount no-such-type on /x: "),
                "{refused}"
            );
        });
    }

    #[test]
    fn a_container_can_leave_the_new_root() {
        require!(root());
        in_an_empty_root(|| {
            fs::create_dir("/proc").unwrap();
            fs::write("/file", "kept").unwrap();
            leave_initramfs_root().unwrap();
            assert_eq!(fs::read_to_string("/file").unwrap(), "kept");
            assert!(Path::new("/.root").is_dir());
            mount_one(&MOUNTS[0]).unwrap();
            let roots = mounts().into_iter().filter(|(point, ..)| point == "/");
            assert_eq!(roots.count(), 1, "the old one is beneath");
            fs::create_dir("/new").unwrap();
            let none = None::<&str>;
            mount(Some("/new"), "/new", none, MsFlags::MS_BIND, none).unwrap();
            nix::unistd::chdir("/new").unwrap();
            nix::unistd::pivot_root(".", ".").unwrap();
        });
    }

    #[test]
    fn links_that_are_there_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("fd");
        for to in ["/proc/self/fd", "/elsewhere"] {
            link_one(to, &link).unwrap();
        }
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/proc/self/fd"));
        let nowhere = folder.path().join("none/fd");
        assert!(link_one("/proc/self/fd", &nowhere).is_err());
    }

    #[test]
    fn the_loopback_interface_comes_up() {
        require!(root());
        in_an_empty_root(|| {
            let connected = || {
                let server = std::net::TcpListener::bind("127.0.0.1:0")?;
                std::net::TcpStream::connect(server.local_addr()?)
            };
            assert!(connected().is_err());
            loopback_up().unwrap();
            connected().unwrap();
        });
    }
}
