//! The named volumes on disk.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs2::FileExt;
use serde::{Deserialize, Serialize};

use crate::engine::journal::{Event, Journal, Kind};
use crate::engine::records as files;
use crate::engine::records::definition::{ContainerDefinition, VolumeUse};
use crate::engine::{Engine, PodHandle};
use crate::error::{Context, Error, Result};
use crate::state_dir;
use crate::state_dir::Stored;
use crate::state_dir::id::check_id;
use crate::state_dir::private;
use crate::state_dir::staging;

impl Stored for Volume {}

/// A volume (`config.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: SystemTime,
    /// For people and programs to find it by.
    pub labels: BTreeMap<String, String>,
    /// It has what the first image that it was mounted over had there.
    pub filled: bool,
}

impl Volume {
    /// A new volume.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            created: SystemTime::now(),
            labels: BTreeMap::new(),
            filled: false,
        }
    }
}

/// A volume as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeView {
    /// The volume.
    #[serde(flatten)]
    pub volume: Volume,
    /// Where its files are.
    pub path: PathBuf,
    /// It goes with its container.
    pub anonymous: bool,
    /// The containers that have it, as `POD/CONTAINER`.
    pub users: Vec<String>,
}

/// The directory of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeDir(PathBuf);

impl VolumeDir {
    /// The directory of an anonymous volume of a container.
    pub(super) fn of_container(container: &Path, name: &str) -> Result<Self> {
        check_id("volume name", name)?;
        Ok(Self(container.join("volumes").join(name)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Its files.
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("_data")
    }

    /// What an image has for it, whole but not in its place yet.
    pub(super) fn copied(&self) -> PathBuf {
        self.0.join("copied")
    }

    pub(super) fn read(&self) -> Result<Volume> {
        const CURE: &str = "remove it with `rust-kata volume rm --force`";
        state_dir::read_or(&self.0.join("config.json"), || CURE.to_owned())
    }

    pub(super) fn write(&self, volume: &Volume) -> Result<()> {
        state_dir::write(&self.0.join("config.json"), volume)
    }

    /// Makes it, whole.
    pub(super) fn create(&self, volume: &Volume) -> Result<()> {
        staging::place(&self.0, staging::parent(&self.0)?, |dir| {
            let data = dir.join("_data");
            fs::create_dir(&data).on("create", &data)?;
            Self(dir.to_owned()).write(volume)
        })
    }
}

/// The named volumes below a data root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
}

/// The lock of all volumes; freed on drop.
#[derive(Debug)]
pub(crate) struct VolumesLock(#[expect(dead_code, reason = "it is the lock")] File);

impl Volumes {
    /// The volumes below `data_root`.
    pub fn new(data_root: &Path) -> Self {
        Self {
            root: data_root.join("volumes"),
        }
    }

    pub(super) fn dir(&self, name: &str) -> Result<VolumeDir> {
        check_id("volume name", name)?;
        Ok(VolumeDir(self.root.join(name)))
    }

    fn locked(&self, lock: impl Fn(&File) -> io::Result<()>) -> Result<VolumesLock> {
        private::make(&self.root)?;
        let path = self.root.join(".lock");
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        let file = how.mode(0o600).open(&path).on("open", &path)?;
        lock(&file).on("lock", &path)?;
        Ok(VolumesLock(file))
    }

    /// Tells what has happened to a volume.
    fn tell(&self, action: &str, name: &str) {
        if let Some(data_root) = self.root.parent() {
            let event = Event::new(Kind::Volume, action, name, "");
            Journal::of(data_root).tell(event);
        }
    }

    fn exclusive(&self) -> Result<VolumesLock> {
        let held = self.locked(FileExt::lock_exclusive)?;
        staging::sweep(&self.root);
        Ok(held)
    }

    /// Creates a volume.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::Invalid`] for a bad name.
    pub fn create(&self, volume: &Volume) -> Result<()> {
        let dir = self.dir(&volume.name)?;
        let _held = self.exclusive()?;
        dir.create(volume)
            .map_err(|e| staging::taken(e, "volume", &volume.name))?;
        self.tell("create", &volume.name);
        Ok(())
    }

    /// Sees that the named volumes of a new container are there, and that they
    /// stay until it counts as a user of them: until what is returned is dropped.
    pub(crate) fn prepare(&self, uses: &[VolumeUse]) -> Result<Option<VolumesLock>> {
        let named = uses.iter().filter(|wanted| !wanted.anonymous);
        let named: Vec<&VolumeUse> = named.collect();
        if named.is_empty() {
            return Ok(None);
        }
        let held = self.exclusive()?;
        for wanted in named {
            let dir = self.dir(&wanted.name)?;
            if !dir.path().is_dir() {
                dir.create(&Volume::new(&wanted.name))?;
                self.tell("create", &wanted.name);
            }
        }
        Ok(Some(held))
    }
}

impl Engine {
    /// The named volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.config().data_root)
    }

    /// All volumes, the anonymous ones of containers included.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be read. What is wrong with one
    /// volume is in its place.
    pub fn list_volumes(&self) -> Result<Vec<Result<VolumeView>>> {
        let volumes = self.volumes();
        let _held = volumes.locked(FileExt::lock_shared)?;
        let (containers, bad) = self.definitions()?;
        let mut shown: Vec<Result<VolumeView>> = bad.into_iter().map(Err).collect();
        for name in files::names_in(&volumes.root)? {
            let dir = volumes.dir(&name)?;
            shown.push(dir.read().map(|volume| {
                VolumeView {
                    users: users(&containers, &volume.name)
                        .map(|(pod, container)| format!("{}/{}", pod.name(), container.name))
                        .collect(),
                    volume,
                    path: dir.data(),
                    anonymous: false,
                }
            }));
        }
        for (pod, container) in &containers {
            let home = pod.home().container(&container.name)?;
            for used in container.volumes.iter().filter(|used| used.anonymous) {
                let dir = VolumeDir::of_container(home.path(), &used.name)?;
                // It is made when its container is first built.
                let volume = dir.read().unwrap_or_else(|_| Volume {
                    created: container.created,
                    ..Volume::new(&used.name)
                });
                shown.push(Ok(VolumeView {
                    volume,
                    path: dir.data(),
                    anonymous: true,
                    users: vec![format!("{}/{}", pod.name(), container.name)],
                }));
            }
        }
        Ok(shown)
    }

    /// Removes a volume. With `force` the containers that use it go first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] naming its users.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        loop {
            let (engine, wanted) = (self.clone(), name.to_owned());
            let tried = tokio::task::spawn_blocking(move || engine.try_remove_volume(&wanted));
            let tried = tried
                .await
                .map_err(|e| Error::Internal(format!("Removing a volume broke off: {e}")))??;
            if tried.is_empty() {
                return Ok(());
            }
            if !force {
                let full = |(pod, name): &(PodHandle, String)| format!("{}/{name}", pod.name());
                let users: Vec<String> = tried.iter().map(full).collect();
                return Err(Error::WrongState {
                    what: "volume",
                    id: name.to_owned(),
                    operation: "remove",
                    state: format!(
                        "in use by container(s) {}: remove them first, or use --force, which removes them",
                        users.join(", ")
                    ),
                });
            }
            // Not under the lock: a container may take a while to stop.
            for (pod, container) in tried {
                pod.remove_with_own(&container).await?;
            }
        }
    }

    /// Removes a volume unless it is used; answers its users.
    fn try_remove_volume(&self, name: &str) -> Result<Vec<(PodHandle, String)>> {
        let volumes = self.volumes();
        let dir = volumes.dir(name)?;
        let held = volumes.exclusive()?;
        let containers = self.all_definitions()?;
        let of = |(pod, container): (&PodHandle, &ContainerDefinition)| {
            (pod.clone(), container.name.clone())
        };
        if !dir.path().is_dir() {
            let anonymous = containers.iter().find(|(_, container)| {
                let mut used = container.volumes.iter();
                used.any(|used| used.anonymous && used.name == name)
            });
            // It goes with its container, and not before.
            let (pod, container) = anonymous.ok_or_else(|| Error::not_found("volume", name))?;
            return Ok(vec![of((pod, container))]);
        }
        let users: Vec<_> = users(&containers, name).map(of).collect();
        if !users.is_empty() {
            return Ok(users);
        }
        let gone = staging::hide(dir.path(), &volumes.root)?;
        volumes.tell("remove", name);
        drop(held);
        fs::remove_dir_all(&gone).on("remove", &gone)?;
        Ok(Vec::new())
    }

    /// Removes the named volumes that no container uses; answers their names.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a container that cannot be read: it may use any.
    pub fn prune_volumes(&self) -> Result<Vec<String>> {
        let volumes = self.volumes();
        let held = volumes.exclusive()?;
        let containers = self.all_definitions()?;
        let mut removed = Vec::new();
        let mut gone = Vec::new();
        for name in files::names_in(&volumes.root)? {
            if users(&containers, &name).next().is_none() {
                let dir = volumes.dir(&name)?;
                gone.push(staging::hide(dir.path(), &volumes.root)?);
                volumes.tell("remove", &name);
                removed.push(name);
            }
        }
        drop(held);
        for path in gone {
            fs::remove_dir_all(&path).on("remove", &path)?;
        }
        Ok(removed)
    }
}

/// The containers that use a named volume.
fn users<'a>(
    containers: &'a [(PodHandle, ContainerDefinition)],
    name: &'a str,
) -> impl Iterator<Item = (&'a PodHandle, &'a ContainerDefinition)> {
    let uses = move |container: &ContainerDefinition| {
        let mut used = container.volumes.iter();
        used.any(|used| !used.anonymous && used.name == name)
    };
    let all = containers.iter().map(|(pod, container)| (pod, container));
    all.filter(move |(_, container)| uses(container))
}
