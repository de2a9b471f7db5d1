//! Importing an image: missing layers are unpacked in a staging directory and moved into the
//! store together with the image's record.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;

use super::content::{Archive, Content, LayoutDir};
use super::digest::chain_ids;
use super::layer;
use super::layout::{self, Resolved};
use super::progress::{LayerProgress, LayerStep, ProgressReader, Report};
use super::record::{Image, ImageView, Layer, Lease};
use super::reference::ImageSource;
use super::registry::{Puller, RegistryOptions};
use super::store::{Images, Staging};
use crate::blocking::on_thread;
use crate::error::{Context, Result};

/// An image that stays in the store while this lives, even if it is removed.
#[derive(Debug)]
pub struct HeldImage {
    view: ImageView,
    _staging: Staging,
}

impl HeldImage {
    /// The image.
    pub fn view(&self) -> &ImageView {
        &self.view
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.view.image
    }
}

impl Images {
    /// Imports the image from `source`, under `name` or the name of its source. Parts that are
    /// in the store already are not fetched again.
    ///
    /// # Errors
    /// [`super::ImageError`]; then the image is not in the store.
    pub async fn pull(
        &self,
        source: &ImageSource,
        name: Option<String>,
        options: &RegistryOptions,
        report: Report,
    ) -> Result<HeldImage> {
        let held = self.take_in(source, name, options, report).await?;
        let (names, id) = (&held.view().names, &held.image().id);
        let name = names.first().unwrap_or(id);
        self.append_event("pull", name, id);
        Ok(held)
    }

    async fn take_in(
        &self,
        source: &ImageSource,
        name: Option<String>,
        options: &RegistryOptions,
        report: Report,
    ) -> Result<HeldImage> {
        let images = self.clone();
        match source.clone() {
            ImageSource::Registry(reference) => {
                let staging = self.stage()?;
                let mut puller = Puller::new(&reference, options)?;
                let top = puller.documents(staging.path()).await?;
                let dir = LayoutDir(staging.path().to_owned());
                let resolved = layout::resolve(&dir, &top)?;
                let name = name.unwrap_or_else(|| source.name());
                let (import, missing) = blocking(move || {
                    let import = Import::new(images, staging, resolved, name)?;
                    let missing = import.missing()?;
                    Ok((import, missing))
                })
                .await?;
                let wanted = missing.iter().map(|n| &import.resolved.layers[*n]);
                puller.blobs(import.staging.path(), wanted, &report).await?;
                blocking(move || import.run(&dir, &report)).await
            }
            ImageSource::Layout { dir, tag } => {
                let content = LayoutDir(dir);
                let fallback = source.name();
                blocking(move || {
                    let staging = images.stage()?;
                    let resolved = layout::find(&content, tag.as_deref())?;
                    let name = name_of(name, &resolved, fallback);
                    Import::new(images, staging, resolved, name)?.run(&content, &report)
                })
                .await
            }
            ImageSource::Archive { file, tag } => {
                let fallback = source.name();
                blocking(move || {
                    let staging = images.stage()?;
                    let content = Archive::open(&file, staging.path())?;
                    let resolved = layout::find(&content, tag.as_deref())?;
                    let name = name_of(name, &resolved, fallback);
                    Import::new(images, staging, resolved, name)?.run(&content, &report)
                })
                .await
            }
        }
    }

    /// Holds an image of the store.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    pub fn hold(&self, wanted: &str) -> Result<HeldImage> {
        let staging = self.stage()?;
        let held = self.exclusive()?;
        let view = self.find_locked(wanted, &held)?;
        staging.lease(&lease_of(&view.image), &held)?;
        Ok(HeldImage {
            view,
            _staging: staging,
        })
    }
}

/// The name in the layout takes precedence over one made from its path.
fn name_of(asked: Option<String>, resolved: &Resolved, fallback: String) -> String {
    let own = || {
        let own = resolved
            .name
            .as_deref()?
            .parse::<oci_spec::distribution::Reference>();
        own.ok().map(|reference| reference.whole())
    };
    asked.or_else(own).unwrap_or(fallback)
}

fn lease_of(image: &Image) -> Lease {
    Lease {
        image: Some(image.id.clone()),
        layers: image.layers.iter().map(|l| l.chain_id.clone()).collect(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    on_thread("importing an image", work).await?
}

/// An image that is being imported.
struct Import {
    images: Images,
    staging: Staging,
    resolved: Resolved,
    name: String,
    /// Ids of the stacks of layers, lowest first.
    chain: Vec<String>,
}

impl Import {
    /// Takes a lease on the layers, so that existing ones are not removed.
    fn new(images: Images, staging: Staging, resolved: Resolved, name: String) -> Result<Self> {
        let diff_ids: Vec<String> = resolved.diff_ids.iter().map(ToString::to_string).collect();
        let chain = chain_ids(&diff_ids);
        let lease = Lease {
            image: None,
            layers: chain.clone(),
        };
        staging.lease(&lease, &images.exclusive()?)?;
        Ok(Self {
            images,
            staging,
            resolved,
            name,
            chain,
        })
    }

    /// The layers that are not in the store.
    fn missing(&self) -> Result<Vec<usize>> {
        let mut missing = Vec::new();
        for (n, id) in self.chain.iter().enumerate() {
            if self.images.layer(id).read()?.is_none() {
                missing.push(n);
            }
        }
        Ok(missing)
    }

    fn run(self, content: &dyn Content, report: &Report) -> Result<HeldImage> {
        let mut layers = Vec::with_capacity(self.chain.len());
        let mut below: Vec<PathBuf> = Vec::new();
        for (n, id) in self.chain.iter().enumerate() {
            let descriptor = &self.resolved.layers[n];
            let report_layer = |step, done| {
                report(LayerProgress {
                    digest: descriptor.digest(),
                    step,
                    done,
                    total: descriptor.size(),
                });
            };
            if let Some(layer) = self.images.layer(id).read()? {
                report_layer(LayerStep::Present, descriptor.size());
                below.push(self.images.layer(id).files());
                layers.push(layer);
                continue;
            }
            let layer = self.unpack(n, &below, content, report)?;
            report_layer(LayerStep::Done, descriptor.size());
            below.push(self.staging.layer(id).files());
            layers.push(layer);
        }
        self.commit(layers)
    }

    fn unpack(
        &self,
        n: usize,
        below: &[PathBuf],
        content: &dyn Content,
        report: &Report,
    ) -> Result<Layer> {
        let descriptor = &self.resolved.layers[n];
        let diff_id = &self.resolved.diff_ids[n];
        let dir = self.staging.layer(&self.chain[n]);
        let files = dir.files();
        fs::create_dir_all(&files).on("create", &files)?;
        set_mode(&files, 0o755)?;
        let blob = ProgressReader {
            inner: content.blob(descriptor.digest())?,
            report,
            now: LayerProgress {
                digest: descriptor.digest(),
                step: LayerStep::Unpacking,
                done: 0,
                total: descriptor.size(),
            },
        };
        let unpacked = layer::unpack(blob, descriptor, diff_id, &files, below)?;
        let layer = Layer {
            chain_id: self.chain[n].clone(),
            diff_id: diff_id.to_string(),
            size: unpacked.size,
            opaque: unpacked.opaque,
        };
        dir.write(&layer)?;
        Ok(layer)
    }

    /// Moves the image into the store.
    fn commit(self, layers: Vec<Layer>) -> Result<HeldImage> {
        let images = &self.images;
        // The files are synced before the record that refers to them.
        let dir = File::open(self.staging.path()).on("open", self.staging.path())?;
        syncfs(&dir).on("sync", self.staging.path())?;
        let held = images.exclusive()?;
        for layer in &layers {
            let from = self.staging.layer(&layer.chain_id);
            if from.path().is_dir() {
                move_in(from.path(), images.layer(&layer.chain_id).path())?;
            }
        }
        images.sync_layers()?;
        let id = self.resolved.id.to_string();
        let (there, _) = images.read(&held)?;
        let there = there.into_iter().find(|view| view.image.id == id);
        let view = match there {
            Some(view) => view,
            None => ImageView {
                image: Image {
                    id,
                    digest: self.resolved.digest.to_string(),
                    pulled: SystemTime::now(),
                    layers,
                    config: self.resolved.config.clone(),
                },
                names: Vec::new(),
            },
        };
        images.write(&view.image, &held)?;
        images.write_name(&self.name, &view.image.id, &held)?;
        self.staging.lease(&lease_of(&view.image), &held)?;
        let unneeded = images.collect(&held)?;
        drop(held);
        self.staging.empty();
        Images::remove_hidden(&unneeded);
        let mut view = view;
        if !view.names.contains(&self.name) {
            view.names.push(self.name);
        }
        Ok(HeldImage {
            view,
            _staging: self.staging,
        })
    }
}

/// Another process may have moved the same layer in first.
fn move_in(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(()),
        other => other.on("create", to),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).on("set the mode of", path)
}
