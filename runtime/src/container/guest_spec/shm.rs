//! `/dev/shm` of a pod, in memory of the guest.
//!
//! The CRI makes a tmpfs on the host for each pod and binds it into all containers (Docker does
//! so for each container). From a VM that memory would be the host's, and every access a
//! request. The pod gets a tmpfs in the guest instead, of the same size.

use std::path::Path;

use oci_spec::runtime::Mount as OciMount;
use protos::GUEST_SHM;
use protos::agent::Storage;
use rustix::fs::{stat, statfs, statvfs};

use crate::error::{Context, Result};
use crate::host::mount::is_mount_point;

/// statfs(2)
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The guest's mount in place of a bind whose source is a `/dev/shm` made for the pod. A volume
/// that is mounted at `/dev/shm`, such as an `emptyDir` in memory, may have other users and
/// stays a bind.
///
/// # Errors
/// [`crate::Error::Io`] naming the source.
pub(super) fn of(mount: &OciMount, bundle: &Path) -> Result<Option<Storage>> {
    let Some(source) = mount.source() else {
        return Ok(None);
    };
    let source = bundle.join(source);
    if mount.destination() != Path::new("/dev/shm") || !is_shm(&source)? {
        return Ok(None);
    }
    let device = stat(&source).on("look at", &source)?.st_dev;
    let room = statvfs(&source).on("look at", &source)?;
    let mut options = vec!["nosuid", "nodev", "noexec", "mode=1777"];
    let size = format!("size={}", room.f_blocks * room.f_frsize);
    if room.f_blocks > 0 {
        options.push(&size);
    }
    Ok(Some(Storage {
        fstype: "tmpfs".into(),
        source: "shm".into(),
        // One mount in the guest for each tmpfs of the host.
        target: format!("{GUEST_SHM}/{device:x}"),
        options: options.into_iter().map(str::to_owned).collect(),
        ..Default::default()
    }))
}

/// Whether the source is a tmpfs as container engines make it: mounted on a directory `shm`.
fn is_shm(source: &Path) -> Result<bool> {
    let Ok(path) = std::fs::canonicalize(source) else {
        return Ok(false);
    };
    let is_named = path.file_name().is_some_and(|name| name == "shm");
    // The host's own `/dev/shm` stays shared with the host.
    if !is_named || path == Path::new("/dev/shm") || !is_mount_point(&path)? {
        return Ok(false);
    }
    let kind = statfs(&path).on("look at", &path)?.f_type;
    Ok(u64::try_from(kind) == Ok(TMPFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use serde_json::json;
    use test_support::{require, root};

    fn bind(destination: &str, source: &Path) -> OciMount {
        let json = json!({"destination": destination, "type": "bind", "source": source});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn one_that_was_made_for_it_becomes_the_guests() {
        require!(root());
        let dir = tempfile::tempdir().unwrap();
        let shm = dir.path().join("shm");
        std::fs::create_dir(&shm).unwrap();
        let bundle = Path::new("/");
        let found = |mount: &OciMount| of(mount, bundle).unwrap();
        assert_eq!(found(&bind("/dev/shm", &shm)), None, "no mount");
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            let size = Some("size=3m");
            mount(none, &shm, Some("tmpfs"), MsFlags::empty(), size).unwrap();

            let storage = found(&bind("/dev/shm", &shm)).unwrap();
            assert!(storage.target.starts_with("/run/rust-kata/shm/"));
            assert!(storage.options.contains(&format!("size={}", 3 << 20)));
            assert_eq!(found(&bind("/data", &shm)), None, "another place");
            assert_eq!(found(&bind("/dev/shm", Path::new("/dev/shm"))), None);
            drop(dir);
        });
        thread.join().unwrap();
    }
}
