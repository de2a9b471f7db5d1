//! The volumes of a container that is about to be built: their mounts, and the initial contents
//! of new ones.
//!
//! A new volume is filled in two steps: everything is copied to a staging directory, then moved
//! in name by name. After a crash a half-copied tree is not mistaken for a whole one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use fs2::FileExt;
use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with};

use super::copy;
use super::store::{Volume, VolumeDir, Volumes};
use crate::engine::records::definition::{ContainerDefinition, VolumeUse};
use crate::engine::records::paths::ContainerPaths;
use crate::engine::records::record::ContainerState;
use crate::engine::rootfs::{self, TemporaryMount};
use crate::error::{Context, Error, Result};
use crate::state_dir::staging;

/// The bind mounts of a container's volumes. New volumes are filled; where the image has no
/// directory for one, it is given to `owner`, the container's user. Blocks during the copy. The
/// container is not in a VM.
///
/// # Errors
/// [`Error::NotFound`] for a named volume that has been removed.
pub(in crate::engine) fn mounts(
    volumes: &Volumes,
    definition: &ContainerDefinition,
    paths: &ContainerPaths,
    state: &ContainerState,
    owner: (u32, u32),
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for used in &definition.volumes {
        let dir = if used.anonymous {
            let dir = VolumeDir::of_container(paths.path(), &used.name)?;
            if !dir.path().is_dir() {
                let parent = dir.path().parent().unwrap_or(paths.path());
                fs::create_dir_all(parent).on("create", parent)?;
                dir.create(&Volume::new(&used.name))?;
            }
            dir
        } else {
            volumes.dir(&used.name)?
        };
        if !dir.path().is_dir() {
            return Err(Error::not_found("volume", &used.name));
        }
        if used.copy {
            let root = || rootfs::mount_temporarily(definition, paths, state);
            fill(&dir, &used.target, owner, root)?;
        }
        let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
        options.extend(used.options.iter().cloned());
        let mount = MountBuilder::default()
            .destination(&used.target)
            .typ("bind")
            .source(dir.data())
            .options(options);
        mounts.push(
            mount
                .build()
                .map_err(Error::encode("the mount of a volume"))?,
        );
    }
    Ok(mounts)
}

/// The paths of a container's volumes on the host, by their paths in the container.
///
/// # Errors
/// [`Error::InvalidValue`] for an invalid name.
pub(in crate::engine) fn places(
    volumes: &Volumes,
    definition: &ContainerDefinition,
    paths: &ContainerPaths,
) -> Result<Vec<(PathBuf, PathBuf)>> {
    let place = |used: &VolumeUse| {
        let dir = match used.anonymous {
            true => VolumeDir::of_container(paths.path(), &used.name)?,
            false => volumes.dir(&used.name)?,
        };
        Ok((used.target.clone(), dir.data()))
    };
    definition.volumes.iter().map(place).collect()
}

/// Fills a volume that has not been filled before.
fn fill<'a>(
    dir: &VolumeDir,
    target: &Path,
    owner: (u32, u32),
    root: impl FnOnce() -> Result<TemporaryMount<'a>>,
) -> Result<()> {
    if dir.read()?.filled {
        return Ok(());
    }
    // Containers of other pods may fill it at the same time.
    let guard = File::open(dir.path()).on("open", dir.path())?;
    guard.lock_exclusive().on("lock", dir.path())?;
    let mut volume = dir.read()?;
    if volume.filled {
        return Ok(());
    }
    staging::sweep(dir.path());
    if !dir.copied().is_dir() && is_empty(&dir.data())? {
        let root = root()?;
        copy_aside(root.path(), target, owner, dir)?;
    }
    move_in(dir)?;
    volume.filled = true;
    dir.write(&volume)
}

/// Copies the image's files at the volume's path into the staging directory.
fn copy_aside(root: &Path, target: &Path, owner: (u32, u32), dir: &VolumeDir) -> Result<()> {
    let root = File::open(root).on("open", root)?;
    let place = target.strip_prefix("/").unwrap_or(target);
    let found = openat2(
        &root,
        place,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let Ok(found) = found else {
        let data = dir.data();
        let (uid, gid) = owner;
        return chown(&data, Some(uid), Some(gid)).on("give its owner to", &data);
    };
    staging::place(&dir.copied(), dir.path(), |to| {
        copy::copy(&found, target, to)?;
        let to = File::open(to).on("open", to)?;
        rustix::fs::syncfs(&to).on("sync", dir.path())
    })
}

/// Moves the copied files into the volume. Existing files stay.
fn move_in(dir: &VolumeDir) -> Result<()> {
    let (from, to) = (dir.copied(), dir.data());
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&from).on("read", &from)? {
        let entry = entry.on("read", &from)?;
        let target = to.join(entry.file_name());
        match renameat_with(CWD, entry.path(), CWD, &target, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {}
            other => other.on("create", &target)?,
        }
    }
    copy::attributes(&from, &to)?;
    staging::remove(&from, dir.path())
}

fn is_empty(dir: &Path) -> Result<bool> {
    let first: io::Result<_> = fs::read_dir(dir).on("read", dir)?.next().transpose();
    Ok(first.on("read", dir)?.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records as files;
    use crate::engine::records::definition::{Rootfs, VolumeUse};
    use crate::engine::records::paths::DataPaths;
    use oci_spec::runtime::Spec;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    struct Scene {
        dir: tempfile::TempDir,
        volumes: Volumes,
        definition: ContainerDefinition,
        paths: ContainerPaths,
    }

    fn scene() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::write(root.join("data/file"), "of the image").unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        let paths = DataPaths::new(dir.path(), "local", "p").unwrap();
        let paths = paths.container("c").unwrap();
        fs::create_dir_all(paths.path()).unwrap();
        let mut definition =
            ContainerDefinition::new("c", Rootfs::Directory(root), Spec::default());
        let used = |name: &str, anonymous, target: &str| VolumeUse {
            name: name.into(),
            anonymous,
            target: target.into(),
            options: Vec::new(),
            copy: true,
        };
        definition.volumes = vec![used("n", false, "/data"), used("a", true, "/none")];
        let volumes = Volumes::new(dir.path());
        volumes.prepare(&definition.volumes).unwrap();
        Scene {
            dir,
            volumes,
            definition,
            paths,
        }
    }

    impl Scene {
        fn build(&self) -> Result<Vec<Mount>> {
            let state = ContainerState::default();
            mounts(&self.volumes, &self.definition, &self.paths, &state, (7, 8))
        }
    }

    #[test]
    fn a_new_volume_gets_what_the_image_has_once() {
        let scene = scene();
        let built = scene.build().unwrap();
        let data = scene.dir.path().join("volumes/n/_data");
        assert_eq!(built[0].source().as_deref(), Some(data.as_path()));
        assert_eq!(fs::read(data.join("file")).unwrap(), b"of the image");
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o1770);
        // The image has no directory for it: it belongs to the user.
        let own = fs::metadata(scene.paths.path().join("volumes/a/_data")).unwrap();
        assert_eq!((own.uid(), own.gid()), (7, 8));
        // A file that is removed later stays removed.
        fs::remove_file(data.join("file")).unwrap();
        fs::remove_dir(data.join("sub")).unwrap();
        scene.build().unwrap();
        assert!(is_empty(&data).unwrap());
        let left: Vec<String> = files::names_in(data.parent().unwrap()).unwrap();
        assert_eq!(left, ["_data", "config.json"]);
    }

    #[test]
    fn a_volume_that_has_something_is_left_as_it_is() {
        let scene = scene();
        let data = scene.dir.path().join("volumes/n/_data");
        fs::write(data.join("mine"), "").unwrap();
        scene.build().unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[test]
    fn what_was_copied_before_a_crash_is_moved_in_after_it() {
        let scene = scene();
        let volume = scene.dir.path().join("volumes/n");
        fs::create_dir(volume.join("copied")).unwrap();
        fs::write(volume.join("copied/rest"), "r").unwrap();
        fs::write(volume.join("_data/moved"), "m").unwrap();
        fs::create_dir(volume.join(".new-1-1-x")).unwrap();
        scene.build().unwrap();
        let names = files::names_in(&volume.join("_data")).unwrap();
        assert_eq!(names, ["moved", "rest"]);
        assert!(!volume.join("copied").exists() && !volume.join(".new-1-1-x").exists());
    }

    #[test]
    fn a_volume_that_has_gone_is_named() {
        let scene = scene();
        fs::remove_dir_all(scene.dir.path().join("volumes/n")).unwrap();
        let said = scene.build().unwrap_err().to_string();
        assert!(said.contains("\"n\""), "{said}");
    }
}
