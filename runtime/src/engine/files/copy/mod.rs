//! Copies files into containers, out of them, and between them (`cp`), and writes whole root
//! file systems (`export`).
//!
//! ```text
//! source ── Packer ──▶ pipe ──▶ extract ──▶ target        on the host; the kernel resolves paths:
//!  tree      (thread)   tar      (thread)    tree         openat2(2) with the tree as root
//! ```
//!
//! A container's files are under its control: links in them cannot lead out of its root, and
//! changes during a copy affect only that copy.

mod place;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use self::place::{Place, below_mounts, bound, open_root};
use crate::blocking::on_thread;
pub use crate::engine::archive::LeftOut;
use crate::engine::archive::{Packer, Side, TransferError, extract, transfer};
use crate::engine::handle::PodHandle;
use crate::engine::handle::mount::LeasedRootfs;
use crate::engine::volume;
use crate::error::{Context, Error, Result};

/// A path on the host, or in a container.
#[derive(Debug, Clone)]
pub enum End {
    /// On the host.
    Host(PathBuf),
    /// In a container.
    Container {
        /// Its pod.
        pod: PodHandle,
        /// Its name.
        container: String,
        /// Relative to its root.
        path: PathBuf,
    },
}

/// The source of a copy.
pub enum CopySource {
    /// A file or a directory.
    Path(End),
    /// An archive.
    Archive(Box<dyn Read + Send>),
}

/// The target of a copy.
pub enum Target {
    /// An existing directory, or a new name.
    Path(End),
    /// An archive.
    Archive(Box<dyn Write + Send>),
}

/// Copies files. Files that come into a container belong to its user, files that come out of it
/// to the caller, unless `keep_owner`. On the host, including bind mounts of containers, no
/// device node, set-id bit or file capability is made. Returns what was left out.
///
/// # Errors
/// [`Error::NotFound`] for an unknown container; [`Error::Copy`] naming the path and what is
/// wrong with it.
pub async fn copy(source: CopySource, target: Target, keep_owner: bool) -> Result<LeftOut> {
    let mut leases = Leases::default();
    let result = copy_in(&mut leases, source, target, keep_owner).await;
    let ended = leases.end(result.is_ok().then_some("copy")).await;
    let left_out = result?;
    ended.map(|()| left_out)
}

/// Writes a container's root file system, without its volumes, as an archive.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Io`] if it cannot be read or written.
pub async fn export(pod: &PodHandle, container: &str, out: Box<dyn Write + Send>) -> Result<()> {
    let mut leases = Leases::default();
    let leased = pod.lease_rootfs(container).await?;
    let path = leased.path().to_owned();
    leases.0.push((pod.clone(), leased, false));
    let result = blocking(move || {
        let root = open_root(&path)?;
        let mut packer = Packer::new(out);
        let packed = packer.contents(root.as_fd(), Path::new(""));
        packed.and_then(|()| packer.finish()).on("export", &path)
    })
    .await;
    let ended = leases.end(result.is_ok().then_some("export")).await;
    result.and(ended)
}

async fn copy_in(
    leases: &mut Leases,
    source: CopySource,
    target: Target,
    keep_owner: bool,
) -> Result<LeftOut> {
    let (source_end, archive_in) = match source {
        CopySource::Path(end) => (Some(leases.open(end, false).await?), None),
        CopySource::Archive(reader) => (None, Some(reader)),
    };
    let (target_end, archive_out) = match target {
        Target::Path(end) => (Some(leases.open(end, true).await?), None),
        Target::Archive(writer) => (None, Some(writer)),
    };
    blocking(move || match (source_end, target_end) {
        (None, Some(to)) => {
            let owner = to.owner(keep_owner);
            let into = to.directory()?;
            let reader = archive_in.unwrap_or_else(|| Box::new(io::empty()));
            extract(reader, into.0, owner, to.side).on("copy to", &to.shown)
        }
        (Some(from), None) => {
            let writer = archive_out.unwrap_or_else(|| Box::new(io::sink()));
            let found = from.source()?;
            let name = found.name_for_archive();
            let packed = found.pack(writer, &name).on("copy", &from.shown);
            packed.map(|()| LeftOut::default())
        }
        (Some(from), Some(to)) => between(&from, &to, keep_owner),
        (None, None) => Err(Error::requires("copying", "a path: both ends are archives")),
    })
    .await
}

fn between(from: &Place, to: &Place, keep_owner: bool) -> Result<LeftOut> {
    let found = from.source()?;
    let (into, name) = to.target_for(&found)?;
    let owner = to.owner(keep_owner);
    let pack = |writer| found.pack(writer, &name);
    match transfer(pack, into.0, owner, to.side) {
        Ok(left_out) => Ok(left_out),
        Err(TransferError::Source(e)) => Err(e).on("copy", &from.shown),
        Err(TransferError::Target(e)) => Err(e).on("copy to", &to.shown),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    on_thread("copying files", work).await?
}

/// The leased root file systems of a copy.
#[derive(Default)]
struct Leases(Vec<(PodHandle, LeasedRootfs, bool)>);

impl Leases {
    async fn open(&mut self, end: End, written: bool) -> Result<Place> {
        let (pod, container, path) = match end {
            End::Host(path) => return Place::host(path),
            End::Container {
                pod,
                container,
                path,
            } => (pod, container, path),
        };
        let definition = pod.view()?.container(&container)?.definition.clone();
        let paths = pod.paths().container(&container)?;
        let volumes = volume::places(&pod.engine.volumes(), &definition, &paths)?;
        let volumes = volumes.into_iter();
        let mut places: Vec<_> = volumes
            .map(|(place, source)| (place, source, Side::Container))
            .collect();
        let mounts = definition.spec.mounts().as_deref().unwrap_or(&[]);
        let leased = pod.lease_rootfs(&container).await?;
        let root = leased.path().to_owned();
        self.0.push((pod, leased, written));
        places.extend(mounts.iter().filter_map(bound));
        let all = mounts.iter().map(|mount| mount.destination().as_path());
        let below = below_mounts(&places, all, root.clone(), &path)?;
        Place::container(&definition, &root, below, path)
    }

    /// Releases all leases, and appends the event for what was done. The VMs of containers that
    /// were written to drop their caches.
    async fn end(self, done: Option<&str>) -> Result<()> {
        let mut result = Ok(());
        for (pod, leased, written) in self.0 {
            if let Some(action) = done {
                pod.append_event(leased.container(), action);
            }
            if written {
                result = result.and(pod.files_changed().await);
            }
            result = result.and(pod.release_rootfs(leased).await);
        }
        result
    }
}

#[cfg(test)]
mod tests;
