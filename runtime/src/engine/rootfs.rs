//! Root file systems of containers: for the VM, and for programs on the host (`mount`, `cp`,
//! `export`).
//!
//! ```text
//! layers/…/fs ─┐
//! upper, work ─┴─ overlay ─▶ shared/<container>/rootfs      while it is in a VM
//!                       └──▶ containers/<name>/rootfs       while it is in use on the host
//! ```
//!
//! Two overlays of one upper directory would not see each other's changes, so there is only
//! one: its second user gets a bind mount of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs2::FileExt;

use crate::engine::image::ImageError;
use crate::engine::records::definition::{ContainerDefinition, Rootfs};
use crate::engine::records::paths::ContainerPaths;
use crate::engine::records::record::ContainerState;
use crate::error::{Context, Error, Result};
use crate::host::mount::{Mount, is_mount_point, unmount_below, unmount_unused};

/// The source of a container's root file system when it is built.
pub(crate) struct Root {
    /// `root.path` of the spec.
    pub(crate) directory: PathBuf,
    /// The mounts that make it; empty: the directory itself.
    pub(crate) mounts: Vec<Mount>,
}

impl Root {
    /// The root of a container; makes its writable directories.
    pub(crate) fn of(rootfs: &Rootfs, paths: &ContainerPaths) -> Result<Self> {
        match rootfs {
            Rootfs::Directory(path) => Ok(Self {
                directory: path.clone(),
                mounts: Vec::new(),
            }),
            Rootfs::Image { layers, .. } => Ok(Self {
                directory: "rootfs".into(),
                mounts: vec![if is_mount_point(&paths.rootfs())? {
                    bind(&paths.rootfs())
                } else {
                    overlay(layers, paths)?
                }],
            }),
        }
    }
}

/// The kind of use of a root file system on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootfsUser {
    /// A mount by a user, from `mount` to `unmount`; counted on disk.
    Mount,
    /// A copy by a process, which holds a [`RootfsLease`].
    Lease,
}

/// A process's use of a container's root file system: a lock, which the kernel releases
/// if the process is killed.
#[derive(Debug)]
pub struct RootfsLease {
    _lock: File,
}

impl RootfsLease {
    /// Takes a lease.
    ///
    /// # Errors
    /// [`Error::Io`] if the container's directory is gone.
    pub fn begin(paths: &ContainerPaths) -> Result<Self> {
        let path = paths.lease_lock();
        let file = File::options().create(true).append(true).open(&path);
        let file = file.on("open", &path)?;
        FileExt::lock_shared(&file).on("lock", &path)?;
        Ok(Self { _lock: file })
    }

    fn is_held(paths: &ContainerPaths) -> Result<bool> {
        let path = paths.lease_lock();
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.on("open", &path)?,
        };
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(e).on("lock", &path),
        }
    }
}

/// Mounts a container's root file system on the host. A [`RootfsUser::Mount`] is counted in
/// `state`, which the caller writes. `live` is its path for the VM, if the container is in one.
/// The caller holds the pod's lock, or is its owner.
///
/// # Errors
/// [`ImageError::LayerGone`]; [`Error::Mount`] if the kernel refuses.
pub fn hold(
    definition: &ContainerDefinition,
    paths: &ContainerPaths,
    live: Option<&Path>,
    user: RootfsUser,
    state: &mut ContainerState,
) -> Result<PathBuf> {
    let path = match &definition.rootfs {
        Rootfs::Directory(path) => path.clone(),
        Rootfs::Image { layers, .. } => {
            let target = paths.rootfs();
            if !is_mount_point(&target)? {
                // The mounts were lost at a reboot of the host.
                state.mounts = 0;
                fs::create_dir_all(&target).on("create", &target)?;
                let mut mount = match live {
                    Some(live) => bind(live),
                    None => overlay(layers, paths)?,
                };
                // The host does not need an image's device nodes and set-user-id programs.
                mount.options.extend(["nodev", "nosuid"].map(str::to_owned));
                mount.attach(&target)?;
            }
            target
        }
    };
    if user == RootfsUser::Mount {
        state.mounts += 1;
    }
    Ok(path)
}

/// Undoes one use of [`hold`], or all with `force`; the last one unmounts. Returns whether
/// there was any.
///
/// # Errors
/// [`Error::Busy`] if a process on the host uses files in it, without `force`.
pub fn release(
    paths: &ContainerPaths,
    user: RootfsUser,
    force: bool,
    state: &mut ContainerState,
) -> Result<bool> {
    let used = state.mounts > 0;
    let left = match user {
        _ if force => 0,
        RootfsUser::Mount => state.mounts.saturating_sub(1),
        RootfsUser::Lease => state.mounts,
    };
    if force {
        unmount_below(&paths.rootfs())?;
    } else if left == 0 && !RootfsLease::is_held(paths)? && is_mount_point(&paths.rootfs())? {
        unmount_unused(&paths.rootfs())?;
    }
    state.mounts = left;
    Ok(used)
}

/// A container's root file system, mounted on the host until this is dropped. Only for a
/// container that is not in a VM.
pub(in crate::engine) struct TemporaryMount<'a> {
    paths: &'a ContainerPaths,
    path: PathBuf,
    /// Whether it was mounted for this use.
    mounted: bool,
}

impl TemporaryMount<'_> {
    pub(in crate::engine) fn path(&self) -> &Path {
        &self.path
    }
}

/// Mounts a container's root file system on the host temporarily, uncounted.
pub(in crate::engine) fn mount_temporarily<'a>(
    definition: &ContainerDefinition,
    paths: &'a ContainerPaths,
    state: &ContainerState,
) -> Result<TemporaryMount<'a>> {
    let before = is_mount_point(&paths.rootfs())?;
    let path = hold(
        definition,
        paths,
        None,
        RootfsUser::Lease,
        &mut state.clone(),
    )?;
    Ok(TemporaryMount {
        paths,
        path,
        mounted: !before && is_mount_point(&paths.rootfs())?,
    })
}

impl Drop for TemporaryMount<'_> {
    fn drop(&mut self) {
        if self.mounted
            && let Err(e) = unmount_below(&self.paths.rootfs())
        {
            // The removal of the container unmounts everything in its directory.
            log::warn!("{e}");
        }
    }
}

fn bind(source: &Path) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.display().to_string(),
        options: vec!["rbind".into(), "rprivate".into()],
        ..Mount::default()
    }
}

/// The overlay of an image's layers and a container's own directory.
fn overlay(layers: &[PathBuf], paths: &ContainerPaths) -> Result<Mount> {
    if let Some(missing) = layers.iter().find(|layer| !layer.is_dir()) {
        let layer = missing.clone();
        return Err(ImageError::LayerGone { layer }.into());
    }
    let (upper, work) = (paths.upper(), paths.work());
    fs::create_dir_all(&work).on("create", &work)?;
    if !upper.is_dir() {
        create_upper(&upper, layers.last())?;
    }
    let lower: Vec<String> = layers
        .iter()
        .rev()
        .map(|layer| layer.display().to_string())
        .collect();
    Ok(Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
        ..Mount::default()
    })
}

/// Makes the upper directory with the owner and mode of the image's root: the root of an
/// overlay shows those of the upper one.
fn create_upper(upper: &Path, below: Option<&PathBuf>) -> Result<()> {
    let made = upper.with_extension("new");
    fs::create_dir_all(&made).on("create", &made)?;
    if let Some(below) = below {
        let data = fs::metadata(below).on("look at", below)?;
        let owner = std::os::unix::fs::chown(&made, Some(data.uid()), Some(data.gid()));
        owner.on("give its owner to", &made)?;
        let mode = fs::Permissions::from_mode(data.mode() & 0o7777);
        fs::set_permissions(&made, mode).on("set the mode of", &made)?;
    }
    fs::rename(&made, upper).on("create", upper)
}

/// The error for an unmount without a mount.
pub(in crate::engine) fn not_mounted(container: &str, used: bool) -> Result<()> {
    if used {
        return Ok(());
    }
    Err(Error::WrongState {
        what: "container",
        id: container.to_owned(),
        operation: "unmount",
        state: "not mounted".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records::paths::DataPaths;
    use crate::host::mount::mounts_below;
    use oci_spec::runtime::Spec;

    fn container(dir: &Path) -> (ContainerDefinition, ContainerPaths) {
        let layers = ["one", "two"].map(|name| dir.join("layers").join(name));
        for layer in &layers {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join("file"), layer.to_str().unwrap()).unwrap();
        }
        fs::set_permissions(&layers[1], fs::Permissions::from_mode(0o711)).unwrap();
        let rootfs = Rootfs::Image {
            reference: "x".into(),
            id: "sha256:x".into(),
            layers: layers.to_vec(),
        };
        let paths = DataPaths::new(dir, "local", "web").unwrap();
        let paths = paths.container("c").unwrap();
        fs::create_dir_all(paths.path()).unwrap();
        (
            ContainerDefinition::new("c", rootfs, Spec::default()),
            paths,
        )
    }

    #[test]
    fn the_last_user_takes_the_mount_away() {
        let dir = tempfile::tempdir().unwrap();
        let (definition, paths) = container(dir.path());
        let mut state = ContainerState::default();
        let path = hold(&definition, &paths, None, RootfsUser::Mount, &mut state).unwrap();
        assert_eq!(
            hold(&definition, &paths, None, RootfsUser::Mount, &mut state).unwrap(),
            path
        );
        assert_eq!(state.mounts, 2);
        let seen = fs::read_to_string(path.join("file")).unwrap();
        assert!(seen.ends_with("two"), "{seen}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
        fs::write(path.join("file"), "mine").unwrap();

        assert!(release(&paths, RootfsUser::Mount, false, &mut state).unwrap());
        assert!(path.join("file").exists());
        assert!(release(&paths, RootfsUser::Mount, false, &mut state).unwrap());
        assert!(!path.join("file").exists());
        assert!(!release(&paths, RootfsUser::Mount, false, &mut state).unwrap());
        assert_eq!(fs::read(paths.upper().join("file")).unwrap(), b"mine");
    }

    #[test]
    fn a_lease_keeps_the_mount_only_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (definition, paths) = container(dir.path());
        let mut state = ContainerState::default();
        let lease = RootfsLease::begin(&paths).unwrap();
        let path = hold(&definition, &paths, None, RootfsUser::Lease, &mut state).unwrap();
        assert_eq!(state.mounts, 0);
        hold(&definition, &paths, None, RootfsUser::Mount, &mut state).unwrap();

        // The user's mount ends first, then the lease, as if its process was killed.
        assert!(release(&paths, RootfsUser::Mount, false, &mut state).unwrap());
        assert!(path.join("file").exists());
        drop(lease);
        assert!(!release(&paths, RootfsUser::Lease, false, &mut state).unwrap());
        assert!(!path.join("file").exists());
    }

    #[test]
    fn what_is_in_use_is_unmounted_by_force_only() {
        let dir = tempfile::tempdir().unwrap();
        let (definition, paths) = container(dir.path());
        let mut state = ContainerState::default();
        let path = hold(&definition, &paths, None, RootfsUser::Mount, &mut state).unwrap();
        let open = File::open(path.join("file")).unwrap();

        let refused = release(&paths, RootfsUser::Mount, false, &mut state).unwrap_err();

        assert!(
            matches!(&refused, Error::Busy { path: busy } if *busy == path),
            "{refused}"
        );
        assert_eq!(state.mounts, 1);
        assert!(release(&paths, RootfsUser::Mount, true, &mut state).unwrap());
        assert!(!is_mount_point(&path).unwrap());
        drop(open);
    }

    #[test]
    fn there_is_one_overlay_for_the_vm_and_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let (definition, paths) = container(dir.path());
        let mut state = ContainerState::default();
        let vm = dir.path().join("vm");
        fs::create_dir(&vm).unwrap();
        let root = Root::of(&definition.rootfs, &paths).unwrap();
        root.mounts[0].attach(&vm).unwrap();

        let path = hold(
            &definition,
            &paths,
            Some(&vm),
            RootfsUser::Mount,
            &mut state,
        )
        .unwrap();
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        assert_eq!(device(&path), device(&vm));
        // The other way round, if it is started again meanwhile.
        unmount_below(&vm).unwrap();
        let root = Root::of(&definition.rootfs, &paths).unwrap();
        assert_eq!(root.mounts[0].kind, "bind");
        root.mounts[0].attach(&vm).unwrap();
        assert_eq!(device(&path), device(&vm));

        unmount_below(&vm).unwrap();
        release(&paths, RootfsUser::Mount, true, &mut state).unwrap();
        assert_eq!(
            (mounts_below(dir.path()).unwrap().len(), state.mounts),
            (0, 0)
        );
    }
}
