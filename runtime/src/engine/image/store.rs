//! The image store on disk.
//!
//! ```text
//! <data_root>/images/  lock                       flock: shared for reading, exclusive for changes
//!     names/<hash>.json                           a name, and the image that has it
//!     records/<id>.json                           an image: configuration, layers
//!     layers/<chain id>/{layer.json,fs/}          a layer, unpacked once
//!     pulls/.new-<pid>-<start>-…/                 an image that is being imported or is held
//!         lease.json blobs/ layers/<chain id>/    the layers that it needs
//! ```
//!
//! A layer stays while a record or the lease of a living process refers to it; there are no
//! counters that a crash could make wrong. The lock is held for file work only, and its holder
//! takes no other lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs2::FileExt;
use sha2::{Digest as _, Sha256};

use super::record::{BadImage, Image, ImageView, Layer, Lease, Name};
use crate::engine::journal::{Event, Journal, Kind};
use crate::engine::records as files;
use crate::error::{Context, Error, Result};
use crate::state_dir;
use crate::state_dir::Stored;
use crate::state_dir::private;
use crate::state_dir::staging;

/// The number of hexadecimal digits in the name of a layer's directory. Short, since the paths
/// of all layers of an image must fit into a page (mount options). `layer.json` has the whole
/// id.
const SHORT: usize = 24;

/// The image store below a data root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    root: PathBuf,
}

/// The store's lock; released on drop.
#[derive(Debug)]
pub(in crate::engine) struct StoreLock(#[expect(dead_code, reason = "it is the lock")] File);

impl Images {
    /// Opens the image store below `data_root`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be made.
    pub fn new(data_root: &Path) -> Result<Self> {
        let images = Self {
            root: data_root.join("images"),
        };
        let dirs = [
            images.root.clone(),
            images.names(),
            images.records(),
            images.layers(),
            images.pulls(),
        ];
        for dir in dirs {
            // Private: users of the host must not run set-user-id programs of images.
            private::make(&dir)?;
        }
        Ok(images)
    }

    /// Appends an event of an image to the journal.
    pub(in crate::engine) fn append_event(&self, action: &str, name: &str, id: &str) {
        if let Some(data_root) = self.root.parent() {
            let event = Event::new(Kind::Image, action, name, id);
            Journal::of(data_root).append_or_warn(event);
        }
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn pulls(&self) -> PathBuf {
        self.root.join("pulls")
    }

    fn name_file(&self, name: &str) -> PathBuf {
        let hash = hex::encode(Sha256::digest(name));
        self.names().join(format!("{}.json", &hash[..32]))
    }

    fn record_file(&self, id: &str) -> PathBuf {
        self.records().join(format!("{}.json", plain(id)))
    }

    /// The directory of a layer, which may not exist.
    pub(in crate::engine) fn layer(&self, chain_id: &str) -> LayerDir {
        LayerDir::new(&self.layers(), chain_id)
    }

    /// The directories of an image's visible layers, lowest first.
    pub fn directories(&self, image: &Image) -> Vec<PathBuf> {
        let lowest = image.layers.iter().rposition(|layer| layer.opaque);
        let seen = image.layers.iter().skip(lowest.unwrap_or(0));
        seen.map(|layer| self.layer(&layer.chain_id).files())
            .collect()
    }

    pub(in crate::engine) fn shared(&self) -> Result<StoreLock> {
        self.locked(FileExt::lock_shared)
    }

    /// Locks the store for changes, and removes what dead processes have left.
    pub(in crate::engine) fn exclusive(&self) -> Result<StoreLock> {
        staging::sweep(&self.layers());
        staging::sweep(&self.pulls());
        let held = self.locked(FileExt::lock_exclusive)?;
        // Files are written under the lock, which is held here.
        [self.names(), self.records()]
            .iter()
            .for_each(|dir| state_dir::sweep_temps(dir));
        Ok(held)
    }

    fn locked(&self, lock: impl Fn(&File) -> std::io::Result<()>) -> Result<StoreLock> {
        let path = self.root.join("lock");
        let mut how = OpenOptions::new();
        let file = how
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .on("open", &path)?;
        lock(&file).on("lock", &path)?;
        Ok(StoreLock(file))
    }

    /// Makes a staging directory for an import. Its lease is empty.
    pub(in crate::engine) fn stage(&self) -> Result<Staging> {
        let path = self.pulls().join(staging::staging_name()?);
        let staging = Staging { path };
        fs::create_dir_all(staging.layers()).on("create", staging.layers())?;
        Ok(staging)
    }

    /// Reads all images; errors for those that cannot be read.
    pub(in crate::engine) fn read(
        &self,
        _held: &StoreLock,
    ) -> Result<(Vec<ImageView>, Vec<BadImage>)> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut bad = Vec::new();
        for file in files::names_in(&self.names())? {
            match read::<Name>(&self.names(), &file) {
                Ok(name) => names.entry(name.id).or_default().push(name.name),
                Err(error) => bad.push(BadImage::new(&file, error)),
            }
        }
        let mut images = Vec::new();
        for file in files::names_in(&self.records())? {
            match read::<Image>(&self.records(), &file) {
                Ok(image) => {
                    let mut names = names.remove(&image.id).unwrap_or_default();
                    names.sort();
                    images.push(ImageView { image, names });
                }
                Err(error) => bad.push(BadImage::new(&file, error)),
            }
        }
        images.sort_by(|a, b| a.names.cmp(&b.names));
        Ok((images, bad))
    }

    /// Syncs new layers to the disk, so that they survive a power cut.
    pub(in crate::engine) fn sync_layers(&self) -> Result<()> {
        state_dir::sync_dir(&self.layers())
    }

    pub(in crate::engine) fn write(&self, image: &Image, _held: &StoreLock) -> Result<()> {
        state_dir::write(&self.record_file(&image.id), image)
    }

    /// Gives an image a name, which another image may have had.
    pub(in crate::engine) fn write_name(
        &self,
        name: &str,
        id: &str,
        _held: &StoreLock,
    ) -> Result<()> {
        let named = Name {
            name: name.to_owned(),
            id: id.to_owned(),
        };
        state_dir::write(&self.name_file(name), &named)
    }

    pub(in crate::engine) fn forget_name(&self, name: &str, _held: &StoreLock) -> Result<()> {
        remove_file(&self.name_file(name))
    }

    /// Removes a record; [`Images::collect`] removes its layers.
    pub(in crate::engine) fn forget(&self, id: &str, _held: &StoreLock) -> Result<()> {
        remove_file(&self.record_file(id))
    }

    /// Removes the damaged record or name that `wanted` stands for.
    pub(in crate::engine) fn forget_damaged(&self, wanted: &str, held: &StoreLock) -> Result<()> {
        for bad in self.read(held)?.1 {
            if bad.id.starts_with(plain(wanted)) {
                let file = format!("{}.json", bad.id);
                remove_file(&self.records().join(&file))?;
                remove_file(&self.names().join(&file))?;
            }
        }
        Ok(())
    }

    /// The leases of living processes.
    pub(in crate::engine) fn leases(&self, _held: &StoreLock) -> Result<Vec<Lease>> {
        let mut leases = Vec::new();
        for name in staging::living_in(&self.pulls())? {
            let path = self.pulls().join(name).join(LEASE);
            match state_dir::read(&path) {
                Ok(lease) => leases.push(lease),
                // The lease is empty so far, or its process has just ended.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(leases)
    }

    /// Moves unused layers out of the store. The caller removes the returned paths without the
    /// lock.
    pub(in crate::engine) fn collect(&self, held: &StoreLock) -> Result<Vec<PathBuf>> {
        let (images, bad) = self.read(held)?;
        if let Some(BadImage { id, error }) = bad.first() {
            // It may need any of the layers.
            log::warn!("No layer is removed, since image {id} cannot be read: {error}");
            return Ok(Vec::new());
        }
        let of_images = images.iter().flat_map(|view| &view.image.layers);
        let leased = self.leases(held)?;
        let needed: BTreeSet<String> = of_images
            .map(|layer| &layer.chain_id)
            .chain(leased.iter().flat_map(|lease| &lease.layers))
            .map(|id| short(id))
            .collect();
        let unneeded = files::names_in(&self.layers())?;
        let unneeded = unneeded.into_iter().filter(|name| !needed.contains(name));
        unneeded
            .map(|name| staging::hide(&self.layers().join(name), &self.layers()))
            .collect()
    }
}

const LEASE: &str = "lease.json";

/// A staging directory for an image; removed on drop.
#[derive(Debug)]
pub(in crate::engine) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(in crate::engine) fn path(&self) -> &Path {
        &self.path
    }

    fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// The directory for unpacking a layer.
    pub(in crate::engine) fn layer(&self, chain_id: &str) -> LayerDir {
        LayerDir::new(&self.layers(), chain_id)
    }

    /// Writes the lease: from now on the store keeps the layers in it.
    pub(in crate::engine) fn lease(&self, lease: &Lease, _held: &StoreLock) -> Result<()> {
        state_dir::write(&self.path.join(LEASE), lease)
    }

    /// Frees the disk space, and keeps the lease.
    pub(in crate::engine) fn empty(&self) {
        // What cannot be removed now is removed when the lease ends.
        let _ = fs::remove_dir_all(self.layers());
        let _ = fs::remove_dir_all(self.path.join("blobs"));
        let _ = fs::remove_file(self.path.join("archive.tar"));
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            log::warn!("{} is removed later: {e}", self.path.display());
        }
    }
}

/// The directory of one layer.
#[derive(Debug, Clone)]
pub(in crate::engine) struct LayerDir {
    path: PathBuf,
    chain_id: String,
}

impl LayerDir {
    fn new(parent: &Path, chain_id: &str) -> Self {
        Self {
            path: parent.join(short(chain_id)),
            chain_id: chain_id.to_owned(),
        }
    }

    pub(in crate::engine) fn path(&self) -> &Path {
        &self.path
    }

    /// Its files.
    pub(in crate::engine) fn files(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Reads its record; `None` if it does not exist.
    pub(in crate::engine) fn read(&self) -> Result<Option<Layer>> {
        if !self.path.is_dir() {
            return Ok(None);
        }
        let file = self.path.join("layer.json");
        const CURE: &str =
            "remove the images that have it with `rust-kata image rm`, and pull them again";
        let layer: Layer = state_dir::read_or(&file, || CURE.to_owned())?;
        if layer.chain_id != self.chain_id {
            let problem = format!("it is of {}, not of {}", layer.chain_id, self.chain_id);
            return Err(Error::bad_file(file, problem).or_cure(|| CURE.to_owned()));
        }
        Ok(Some(layer))
    }

    pub(in crate::engine) fn write(&self, layer: &Layer) -> Result<()> {
        state_dir::write(&self.path.join("layer.json"), layer)
    }
}

/// Reads a record or a name.
fn read<T: Stored>(dir: &Path, file: &str) -> Result<T> {
    let stem = file.trim_end_matches(".json");
    let cure = || format!("remove it with `rust-kata image rm --force {stem}`");
    state_dir::read_or(&dir.join(file), cure)
}

/// A digest without its algorithm.
pub(in crate::engine) fn plain(digest: &str) -> &str {
    digest.rsplit(':').next().unwrap_or(digest)
}

fn short(chain_id: &str) -> String {
    plain(chain_id).chars().take(SHORT).collect()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove", path),
    }
}
