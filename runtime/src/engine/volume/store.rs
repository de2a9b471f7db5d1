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
use crate::engine::records::definition::VolumeUse;
use crate::error::{Context, Result};
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
    /// Labels for users and programs.
    pub labels: BTreeMap<String, String>,
    /// Whether it was filled with the files of the first image that it was mounted over.
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

/// A volume with its path and users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeView {
    /// The volume.
    #[serde(flatten)]
    pub volume: Volume,
    /// The directory of its files.
    pub path: PathBuf,
    /// Whether it is removed with its container.
    pub anonymous: bool,
    /// The containers that use it, as `POD/CONTAINER`.
    pub users: Vec<String>,
}

/// The directory of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct VolumeDir(PathBuf);

impl VolumeDir {
    /// The directory of an anonymous volume of a container.
    pub(in crate::engine) fn of_container(container: &Path, name: &str) -> Result<Self> {
        check_id("volume name", name)?;
        Ok(Self(container.join("volumes").join(name)))
    }

    pub(in crate::engine) fn path(&self) -> &Path {
        &self.0
    }

    /// Its files.
    pub(in crate::engine) fn data(&self) -> PathBuf {
        self.0.join("_data")
    }

    /// The staging directory for the image's files.
    pub(in crate::engine) fn copied(&self) -> PathBuf {
        self.0.join("copied")
    }

    pub(in crate::engine) fn read(&self) -> Result<Volume> {
        const CURE: &str = "remove it with `rust-kata volume rm --force`";
        state_dir::read_or(&self.0.join("config.json"), || CURE.to_owned())
    }

    pub(in crate::engine) fn write(&self, volume: &Volume) -> Result<()> {
        state_dir::write(&self.0.join("config.json"), volume)
    }

    /// Creates it atomically.
    pub(in crate::engine) fn create(&self, volume: &Volume) -> Result<()> {
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
    pub(in crate::engine) root: PathBuf,
}

/// The lock of all volumes; released on drop.
#[derive(Debug)]
pub(crate) struct VolumesLock(#[expect(dead_code, reason = "it is the lock")] File);

impl Volumes {
    /// The named volumes below `data_root`.
    pub fn new(data_root: &Path) -> Self {
        Self {
            root: data_root.join("volumes"),
        }
    }

    pub(in crate::engine) fn dir(&self, name: &str) -> Result<VolumeDir> {
        check_id("volume name", name)?;
        Ok(VolumeDir(self.root.join(name)))
    }

    pub(in crate::engine) fn locked(
        &self,
        lock: impl Fn(&File) -> io::Result<()>,
    ) -> Result<VolumesLock> {
        private::make(&self.root)?;
        let path = self.root.join(".lock");
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        let file = how.mode(0o600).open(&path).on("open", &path)?;
        lock(&file).on("lock", &path)?;
        Ok(VolumesLock(file))
    }

    /// Appends an event of a volume to the journal.
    pub(in crate::engine) fn append_event(&self, action: &str, name: &str) {
        if let Some(data_root) = self.root.parent() {
            let event = Event::new(Kind::Volume, action, name, "");
            Journal::of(data_root).append_or_warn(event);
        }
    }

    pub(in crate::engine) fn exclusive(&self) -> Result<VolumesLock> {
        let held = self.locked(FileExt::lock_exclusive)?;
        staging::sweep(&self.root);
        Ok(held)
    }

    /// Creates a volume.
    ///
    /// # Errors
    /// [`crate::Error::AlreadyExists`]; [`crate::Error::InvalidValue`] for a bad name.
    pub fn create(&self, volume: &Volume) -> Result<()> {
        let dir = self.dir(&volume.name)?;
        let _held = self.exclusive()?;
        dir.create(volume)
            .map_err(|e| staging::taken(e, "volume", &volume.name))?;
        self.append_event("create", &volume.name);
        Ok(())
    }

    /// Makes missing named volumes of a new container. They cannot be removed while the returned
    /// lock is held; the caller drops it once the container counts as a user of them.
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
                self.append_event("create", &wanted.name);
            }
        }
        Ok(Some(held))
    }
}
