//! The privileges that the process and its threads keep.
//!
//! The FUSE server makes and changes files on behalf of the guest's users, and needs a few
//! capabilities for this. All other threads have none. Since capabilities belong to threads,
//! the [spawner](super::thread) keeps them and passes them to threads of that kind.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{JailError, step};

// capabilities(7)
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETFCAP: u32 = 31;

/// The capabilities of the FUSE server.
const FS: [(u32, &str); 7] = [
    (CAP_CHOWN, "files get any owner"),
    (
        CAP_DAC_OVERRIDE,
        "the guest has checked permissions, by groups that the host cannot know",
    ),
    (CAP_FOWNER, "modes, times and ACLs of any owner's files"),
    (CAP_FSETID, "set-group-id bits survive a change"),
    (CAP_SETGID, "files are made as the guest's group"),
    (CAP_SETUID, "files are made as the guest's user"),
    (
        CAP_SETFCAP,
        "file capabilities, which image layers bring along",
    ),
];

// linux/securebits.h: each flag, with its lock in the next bit.
const SECBIT_NOROOT: libc::c_ulong = 0b11;
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 0b11 << 2;
const SECBIT_KEEP_CAPS_LOCKED: libc::c_ulong = 0b10 << 4;
const SECBIT_NO_CAP_AMBIENT_RAISE: libc::c_ulong = 0b11 << 6;

/// The most descriptors that this process may have.
pub fn max_open_files() -> usize {
    static MAX_OPEN_FILES: OnceLock<usize> = OnceLock::new();
    *MAX_OPEN_FILES.get_or_init(|| {
        // Without an answer, the usual limit.
        let (max, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        usize::try_from(max).unwrap_or(usize::MAX)
    })
}

/// Sets the process's limits, umask and no_new_privs, for all threads.
pub(super) fn limit() -> Result<(), JailError> {
    // Each file that the guest knows costs a descriptor.
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(err) = raised {
        log::warn!("Cannot raise the limit of open files: {err}");
    }
    // Read now, since threads of the jail may not.
    max_open_files();
    // A core file would hold the guest's memory. Message queues are not used.
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_MSGQUEUE] {
        setrlimit(resource, 0, 0).map_err(step("limit resources"))?;
    }
    // The guest's modes are applied unchanged.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    prctl(libc::PR_SET_DUMPABLE, 0).map_err(step("close the process to debuggers"))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(step("renounce new privileges"))
}

/// Limits the calling thread to the spawner's capabilities.
pub(super) fn keep_for_spawner() -> Result<(), JailError> {
    let kept = FS
        .iter()
        .fold(0, |set, (capability, _)| set | 1 << capability);
    let bounding = || -> io::Result<()> {
        for capability in 0..64 {
            // EINVAL: the kernel has no further capabilities.
            match read_prctl(libc::PR_CAPBSET_READ, capability) {
                Err(err) if err.raw_os_error() == Some(libc::EINVAL) => break,
                Ok(1) if kept & 1 << capability == 0 => {
                    prctl(libc::PR_CAPBSET_DROP, capability)?;
                }
                Ok(_) => {}
                Err(err) => return Err(err),
            }
        }
        prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        )?;
        // Changing the user id for the name of a new file must not drop capabilities.
        prctl(
            libc::PR_SET_SECUREBITS,
            SECBIT_NOROOT
                | SECBIT_NO_SETUID_FIXUP
                | SECBIT_KEEP_CAPS_LOCKED
                | SECBIT_NO_CAP_AMBIENT_RAISE,
        )?;
        set(kept)
    };
    bounding().map_err(step("reduce the capabilities"))
}

/// Drops all capabilities of the calling thread.
pub(super) fn drop_all() -> Result<(), JailError> {
    set(0).map_err(step("drop the capabilities"))
}

/// For an fs thread outside of a jail; see the use of [`SECBIT_NO_SETUID_FIXUP`] above.
pub(super) fn keep_capabilities_across_users() {
    if let Err(err) = prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP & !(1 << 3)) {
        log::info!("Supplementary groups will not be honoured on the share: {err}");
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// capset(2), `_LINUX_CAPABILITY_VERSION_3`
const VERSION_3: u32 = 0x2008_0522;

/// Sets the effective and permitted capabilities of the calling thread.
fn set(capabilities: u64) -> io::Result<()> {
    let header = CapabilityHeader {
        version: VERSION_3,
        pid: 0,
    };
    let data = [capabilities as u32, (capabilities >> 32) as u32].map(|half| Data {
        effective: half,
        permitted: half,
        inheritable: 0,
    });
    // SAFETY: both outlive the call, and version 3 reads two elements.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    read_prctl(option, value).map(drop)
}

fn read_prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_int> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    let result = unsafe { libc::prctl(option, value, zero, zero, zero) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::{require, root};

    /// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP of capabilities(7).
    const KEPT: u64 = 0x8000_00db;
    const CAP_SYS_ADMIN: libc::c_ulong = 21;

    /// The sets of the calling thread: inheritable, permitted, effective, bounding, ambient
    /// (proc(5)).
    fn sets() -> [u64; 5] {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line[name.len()..].trim(), 16).unwrap()
        })
    }

    /// Capabilities belong to threads.
    fn in_a_thread<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(what).join().unwrap()
    }

    #[test]
    fn the_spawner_keeps_what_the_file_server_needs() {
        require!(root());
        let (sets, bits) = in_a_thread(|| {
            keep_for_spawner().unwrap();
            let bits = read_prctl(libc::PR_GET_SECUREBITS, 0).unwrap();
            (sets(), bits)
        });

        assert_eq!(sets, [0, KEPT, KEPT, KEPT, 0]);
        // linux/securebits.h: all of them locked, and all but KEEP_CAPS set.
        assert_eq!(bits, 0b1110_1111);
    }

    #[test]
    fn a_bounding_set_that_was_reduced_before_is_reduced_further() {
        require!(root());
        let (before, after) = in_a_thread(|| {
            for capability in [CAP_SYS_ADMIN, CAP_SETFCAP.into()] {
                prctl(libc::PR_CAPBSET_DROP, capability).unwrap();
            }
            let before = sets();
            keep_for_spawner().unwrap();
            (before, sets())
        });

        assert_eq!(before[3] & 1 << CAP_SYS_ADMIN, 0);
        let rest = KEPT & !(1 << CAP_SETFCAP);
        assert_eq!(after, [0, KEPT, KEPT, rest, 0]);
    }

    #[test]
    fn what_is_not_there_to_be_kept_is_an_error() {
        require!(root());
        let failed = in_a_thread(|| {
            set(KEPT & !1 | 1 << 8).unwrap();
            keep_for_spawner()
        });
        let said = failed.unwrap_err().to_string();
        assert!(said.contains("reduce the capabilities"), "{said}");
    }

    #[test]
    fn other_threads_keep_nothing() {
        require!(root());
        let [inheritable, permitted, effective, ..] = in_a_thread(|| {
            drop_all().unwrap();
            sets()
        });
        assert_eq!([inheritable, permitted, effective], [0; 3]);
    }

    #[test]
    fn the_limit_of_open_files_is_the_systems() {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.unwrap().split_whitespace().next().unwrap();
        assert_eq!(max_open_files().to_string(), soft);
    }

    #[test]
    fn a_file_server_outside_of_a_jail_keeps_its_capabilities_as_another_user() {
        require!(root());
        let (bits, before, after) = in_a_thread(|| {
            keep_capabilities_across_users();
            let before = sets();
            // SAFETY: takes numbers only; changes this thread alone.
            let set = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
            assert_eq!(set, 0);
            let bits = read_prctl(libc::PR_GET_SECUREBITS, 0).unwrap();
            (bits, before, sets())
        });
        // linux/securebits.h: NO_SETUID_FIXUP, not locked.
        assert_eq!(bits, 1 << 2);
        assert_eq!(after, before);
    }
}
