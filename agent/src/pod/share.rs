//! The host's mounts in the share; each is a separate file system in the guest.
//!
//! The guest's kernel mounts such a file system automatically when a process enters its
//! directory, in the mount namespace of that process. Processes in different namespaces would
//! get separate mounts and files, without common mappings, locks and sockets. So the agent
//! enters these directories first, in the namespace from which all containers start. They
//! inherit its mounts.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use protos::GUEST_SHARE;

use crate::blocking::blocking;
use crate::error::{Context, Result};
use crate::sync::lock;

/// The directories of the share that a container uses: its root and sources of mounts.
pub fn used_by(spec: &Spec) -> BTreeSet<PathBuf> {
    let root = spec.root().iter().map(|root| root.path().clone());
    let mounts = spec.mounts().iter().flatten();
    let sources = mounts.filter_map(|mount| mount.source().clone());
    let share = Path::new(GUEST_SHARE);
    let in_share = |path: &PathBuf| path.starts_with(share) && path != share;
    root.chain(sources).filter(in_share).collect()
}

/// The action in error texts.
const WALK: &str = "walk the share";

/// The containers' used directories of the share.
#[derive(Default)]
pub struct Uses(Mutex<HashMap<String, BTreeSet<PathBuf>>>);

impl Uses {
    fn table(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<PathBuf>>> {
        lock(&self.0)
    }

    /// Mounts the directories that a container uses. Must be called before the container's
    /// mounts are made.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] naming the path.
    pub async fn begin(
        &self,
        id: &str,
        paths: BTreeSet<PathBuf>,
        below: Vec<String>,
    ) -> Result<()> {
        let paths = blocking(WALK, move || resolve(paths)).await?;
        // Recorded first: the end of another container must not unmount these paths.
        self.table().insert(id.to_owned(), paths.clone());
        blocking(WALK, move || {
            paths.iter().try_for_each(|path| trigger_mount(path))?;
            let below = below.iter().map(PathBuf::from);
            // Other paths are mounted when the container itself enters them.
            let below = below.filter(|path| paths.iter().any(|used| path.starts_with(used)));
            below.into_iter().try_for_each(|path| trigger_mount(&path))
        })
        .await
    }

    /// Unmounts the directories that only this container used.
    pub async fn end(&self, id: &str) {
        let unused = {
            let mut table = self.table();
            let Some(mut paths) = table.remove(id) else {
                return;
            };
            paths.retain(|path| !table.values().any(|other| other.contains(path)));
            paths
        };
        let left = blocking("leave the share", move || {
            unmount_below(&unused);
            Ok(())
        });
        if let Err(e) = left.await {
            log::warn!("leave the share: {e}");
        }
    }
}

/// Resolves links: several containers may use the same directory by different links.
fn resolve(paths: BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let real = |path: PathBuf| fs::canonicalize(&path).path(path);
    paths.into_iter().map(real).collect()
}

/// Makes the kernel mount a path's file system.
fn trigger_mount(path: &Path) -> Result<()> {
    // Only directories are mounted in this way. A path that the host has unmounted is skipped.
    if path.is_dir() {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        open(path, flags, Mode::empty()).path(path)?;
    }
    Ok(())
}

/// Unmounts the file systems at and below these paths, so that the guest forgets their files
/// and the host can close them.
fn unmount_below(paths: &BTreeSet<PathBuf>) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in mounted_below(&table, paths) {
        // Also unmounts the mounts below it.
        if let Err(e) = umount2(&point, MntFlags::MNT_DETACH) {
            log::debug!("unmount {}: {e}", point.display());
        }
    }
}

/// The mount points below `paths` in a mountinfo(5) table, the last mount first. Paths of the
/// share have no characters that the table escapes.
fn mounted_below(table: &str, paths: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let below = |point: &PathBuf| paths.iter().any(|path| point.starts_with(path));
    let mut points: Vec<PathBuf> = points.map(PathBuf::from).filter(below).collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_sources_of_the_share_are_found() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "/run/rust-kata/shared/c/rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/v", "source": "/run/rust-kata/shared/.sources/0"},
                {"destination": "/w", "source": "/run/rust-kata/sharedx"}
            ]
        }))
        .unwrap();

        let used = used_by(&spec);

        let used: Vec<_> = used.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            used,
            [
                "/run/rust-kata/shared/.sources/0",
                "/run/rust-kata/shared/c/rootfs"
            ]
        );
    }

    #[test]
    fn mounts_at_and_below_go_the_last_first() {
        let table = "\
            1 0 0:1 / / rw - rootfs rootfs rw\n\
            2 1 0:2 / /share rw - virtiofs share rw\n\
            3 2 0:3 / /share/c/rootfs rw - virtiofs none rw\n\
            4 3 0:4 / /share/c/rootfs/sub rw - virtiofs none rw\n\
            5 2 0:5 / /share/cc/rootfs rw - virtiofs none rw\n";
        let paths = BTreeSet::from([PathBuf::from("/share/c/rootfs")]);

        let points = mounted_below(table, &paths);

        let expected = ["/share/c/rootfs/sub", "/share/c/rootfs"];
        assert_eq!(points, expected.map(PathBuf::from));
    }
}
