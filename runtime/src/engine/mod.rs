//! The engine: pods and containers that users define, start, stop and start again, with the
//! semantics of podman's libpod. Any program may embed it, as `rust-kata` does.
//!
//! ```text
//! Engine ── reads ───▶ files of pods (flock)          records
//!    │  ── changes ──▶ the files, if the pod has no owner
//!    └─ asks ──ttrpc─▶ the owner of the pod           handle
//!                        └ VM, containers, streams    owner   (crate::Pod)
//! ```
//!
//! A pod's files outlive its VM. While it is started, one process owns it: that process holds
//! the `owner` lock, and all changes go through it.

pub(crate) mod archive;
pub mod capabilities;
mod create;
#[cfg(test)]
mod damage;
pub mod files;
pub mod find;
pub mod foreign;
pub mod graph;
pub mod handle;
pub mod image;
pub mod journal;
#[cfg(test)]
mod model;
mod names;
pub mod owner;
pub mod records;
pub mod restart;
pub mod rootfs;
pub mod status;
#[cfg(test)]
mod tests;
pub mod time;
pub mod usage;
mod users;
pub mod volume;
pub mod wire;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

pub use self::handle::PodHandle;
pub use self::handle::remove::RemoveOptions;
pub use self::handle::spawn::OWN;
pub use names::{TRIES as NAME_TRIES, name_for, new_name};

use self::journal::Journal;
use crate::config::Config;
use crate::engine::find::{is_id, only_one};
use crate::engine::records::definition::PodDefinition;
use crate::engine::records::paths::DataPaths;
use crate::engine::records::view::PodView;
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::state_dir::dir::Dir;
use crate::state_dir::private;

/// The default namespace of pods.
pub const NAMESPACE: &str = "local";

/// Up to this number of pods, one thread reads faster than two.
const ALONE: usize = 64;

/// The engine: makes, finds and removes pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Arc<Config>,
    /// The file of the configuration, for the owners that are started.
    config_file: Option<Arc<Path>>,
}

/// A pod that could not be read.
#[derive(Debug)]
pub struct UnreadablePod {
    /// Its paths.
    pub paths: DataPaths,
    /// The error.
    pub error: Error,
}

impl Engine {
    /// Creates an engine with this configuration. `config_file` is its file, unless that is one
    /// of the usual ones.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be made.
    pub fn new(config: Config, config_file: Option<&Path>) -> Result<Self> {
        for dir in [&config.root, &config.data_root] {
            private::make_root(dir)?;
        }
        Ok(Self {
            config: Arc::new(config),
            config_file: config_file.map(Arc::from),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.config_file.as_deref()
    }

    /// The runtime for a pod's VM.
    pub(crate) fn runtime_of(&self, pod: &PodDefinition) -> Result<Runtime> {
        let mut config = (*self.config).clone();
        config.hypervisor = pod.hypervisor.unwrap_or(config.hypervisor);
        Runtime::new(config)
    }

    /// The journal of the engine's events.
    pub fn journal(&self) -> Journal {
        Journal::of(&self.config.data_root)
    }

    /// Reads all pods, of one namespace or of all. Never waits for a VM. Each entry is a pod,
    /// or the error of reading it.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory of pods cannot be read.
    pub fn pods(&self, namespace: Option<&str>) -> Result<Vec<Result<PodView, UnreadablePod>>> {
        self.pods_seen(namespace, |view| view)
    }

    /// As [`Engine::pods`], but keeps only the result of `seen` for each pod.
    ///
    /// # Errors
    /// As [`Engine::pods`].
    pub fn pods_seen<T: Send>(
        &self,
        namespace: Option<&str>,
        seen: impl Fn(PodView) -> T + Sync,
    ) -> Result<Vec<Result<T, UnreadablePod>>> {
        let pods = self::records::pod_paths(&self.config.data_root, namespace)?;
        if pods.len() <= ALONE {
            return Ok(read(&pods, &seen));
        }
        // Most of the work is system calls: each CPU gets a thread with its share of the pods.
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let share = pods.len().div_ceil(cpus).max(ALONE);
        let seen = &seen;
        thread::scope(|scope| {
            let parts: Vec<_> = pods
                .chunks(share)
                .map(|part| scope.spawn(move || read(part, seen)))
                .collect();
            let parts = parts.into_iter().map(|part| {
                part.join()
                    .map_err(|_| Error::task("reading pods")("its thread panicked"))
            });
            parts
                .collect::<Result<Vec<_>>>()
                .map(|parts| parts.into_iter().flatten().collect())
        })
    }

    /// Handles of all pods, of one namespace or of all.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory of pods cannot be read.
    pub fn pod_names(&self, namespace: Option<&str>) -> Result<Vec<PodHandle>> {
        let pods = self::records::pod_paths(&self.config.data_root, namespace)?;
        Ok(pods
            .into_iter()
            .map(|paths| PodHandle::new(self, paths))
            .collect())
    }

    /// The handle of a pod by its name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidValue`] for a bad name.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<PodHandle> {
        let paths = DataPaths::new(&self.config.data_root, namespace, name)?;
        if !paths.path().is_dir() {
            return Err(Error::not_found("pod", name));
        }
        Ok(PodHandle::new(self, paths))
    }

    /// Finds a pod by its name, its id or the beginning of its id, in one namespace or in all.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] if several match.
    pub fn find_pod(&self, namespace: Option<&str>, wanted: &str) -> Result<PodHandle> {
        let pods = self::records::pod_paths(&self.config.data_root, namespace)?;
        let named: Vec<DataPaths> = pods
            .iter()
            .filter(|paths| paths.name() == wanted)
            .cloned()
            .collect();
        let found = if named.is_empty() && is_id(wanted) {
            let by_id = |paths: &DataPaths| {
                let view = PodView::read(paths);
                view.is_ok_and(|view| view.definition.id.starts_with(wanted))
            };
            pods.into_iter().filter(by_id).collect()
        } else {
            named
        };
        let describe = |paths: &DataPaths| format!("{}/{}", paths.namespace(), paths.name());
        let paths = only_one(found, "pod", wanted, describe)?
            .ok_or_else(|| Error::not_found("pod", wanted))?;
        Ok(PodHandle::new(self, paths))
    }

    /// Finds a container by `POD/NAME`, its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] if several match.
    pub fn find_container(
        &self,
        namespace: Option<&str>,
        wanted: &str,
    ) -> Result<(PodHandle, String)> {
        if let Some((pod, name)) = wanted.split_once('/') {
            let pod = self.find_pod(namespace, pod)?;
            // A container that cannot be read is found, too, so that it can be removed.
            if !pod.view()?.containers.contains_key(name) {
                return Err(Error::not_found("container", name));
            }
            return Ok((pod, name.to_owned()));
        }
        let mut by_name = Vec::new();
        let mut by_id = Vec::new();
        for paths in self::records::pod_paths(&self.config.data_root, namespace)? {
            let names = self::records::names_in(&paths.containers())?;
            if names.iter().any(|name| name == wanted) {
                by_name.push((paths.clone(), wanted.to_owned()));
            }
            if is_id(wanted)
                && let Ok(view) = PodView::read(&paths)
            {
                let ours = view.containers.iter();
                let fits = ours.filter(|(_, files)| {
                    files
                        .as_ref()
                        .is_ok_and(|f| f.definition.id.starts_with(wanted))
                });
                by_id.extend(fits.map(|(name, _)| (paths.clone(), name.clone())));
            }
        }
        let found = if by_name.is_empty() { by_id } else { by_name };
        let describe = |(paths, name): &(DataPaths, String)| format!("{}/{name}", paths.name());
        let (paths, name) = only_one(found, "container", wanted, describe)?
            .ok_or_else(|| Error::not_found("container", wanted))?;
        Ok((PodHandle::new(self, paths), name))
    }

    /// The socket of a pod's owner. Its name is a hash: names of pods might not fit into the
    /// 108 bytes of a socket address.
    pub fn owner_address(&self, paths: &DataPaths) -> PathBuf {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(paths.path().as_os_str().as_encoded_bytes());
        self.config
            .root
            .join(".owners")
            .join(hex::encode(&digest[..8]))
    }
}

/// Reads the given pods one after the other. A pod that is removed meanwhile is left out.
fn read<T>(pods: &[DataPaths], seen: &impl Fn(PodView) -> T) -> Vec<Result<T, UnreadablePod>> {
    let mut found = Vec::with_capacity(pods.len());
    for pods in pods.chunk_by(|a, b| a.namespace() == b.namespace()) {
        let parent = pods[0].path().parent();
        let parent = parent.and_then(|parent| Dir::open(parent.to_owned()).ok());
        for paths in pods {
            let read = match &parent {
                Some(parent) => PodView::read_in(parent, paths),
                None => PodView::read(paths),
            };
            found.extend(match read {
                Err(Error::NotFound { .. }) => None,
                Err(error) => {
                    let paths = paths.clone();
                    Some(Err(UnreadablePod { paths, error }))
                }
                Ok(view) => Some(Ok(seen(view))),
            });
        }
    }
    found
}

#[cfg(test)]
impl Engine {
    /// An engine for tests, with all its files below one directory.
    pub(crate) fn below(dir: &Path) -> Self {
        let config = Config {
            root: dir.join("run"),
            data_root: dir.join("data"),
            ..Config::default()
        };
        Self::new(config, None).unwrap()
    }
}
