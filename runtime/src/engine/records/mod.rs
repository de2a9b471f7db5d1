//! The engine's files: each is replaced as a whole, under the pod's lock.

pub(crate) mod cleanup;
pub mod definition;
mod events;
pub mod exec;
pub mod hooks;
pub(crate) mod limits;
pub mod paths;
pub mod record;
pub(crate) mod remove;
pub mod view;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;

use self::definition::{ContainerDefinition, PodDefinition};
use self::paths::{ContainerPaths, DataPaths};
use self::record::{ContainerState, PodState};
use crate::error::{Context, Error, Result};
use crate::state_dir;
use crate::state_dir::Stored;
use crate::state_dir::dir::Dir;
pub(crate) use crate::state_dir::dir::names as names_in;
use crate::state_dir::lock::{Guarded, PodLock};
use crate::state_dir::private;
use crate::state_dir::staging;
use crate::state_dir::staging::taken;

/// A container, as it is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerFiles {
    /// Its definition.
    pub definition: ContainerDefinition,
    /// Its state.
    pub state: ContainerState,
}

/// A pod, as it is on disk. Each part that cannot be read is an error, so that the rest can
/// still be used.
#[derive(Debug)]
pub struct PodFiles {
    /// Its definition.
    pub definition: Result<PodDefinition>,
    /// Its state.
    pub state: Result<PodState>,
    /// Its containers, by name.
    pub containers: BTreeMap<String, Result<ContainerFiles>>,
}

/// Holds a pod's directory, for reading.
///
/// # Errors
/// [`Error::BadFile`].
pub(crate) fn hold(paths: &DataPaths) -> Result<Dir> {
    Dir::open(paths.path().to_owned()).map_err(|e| explain(paths, e))
}

/// Reads all files of a pod.
pub(crate) fn read_pod(paths: &DataPaths, held: &Dir) -> Result<PodFiles> {
    let mut containers = BTreeMap::new();
    for name in held.names("containers").map_err(|e| explain(paths, e))? {
        let files = read_container(paths, held, &name);
        if files.is_err() && held.stat(&format!("containers/{name}"))?.is_none() {
            // The container was removed meanwhile.
            continue;
        }
        containers.insert(name, files);
    }
    Ok(PodFiles {
        definition: read_pod_definition(paths, held),
        state: read(held, "state.json", || cure(paths)),
        containers,
    })
}

/// Reads the pod's own files, without its containers.
pub(super) fn read_own(paths: &DataPaths) -> Result<(PodDefinition, PodState)> {
    let held = hold(paths)?;
    Ok((
        read_pod_definition(paths, &held)?,
        read(&held, "state.json", || cure(paths))?,
    ))
}

fn read_pod_definition(paths: &DataPaths, held: &Dir) -> Result<PodDefinition> {
    let definition: PodDefinition = read(held, "config.json", || cure(paths))?;
    is_of(&paths.config(), &definition.name, paths.name(), || {
        cure(paths)
    })?;
    Ok(definition)
}

fn read_container(pod: &DataPaths, held: &Dir, name: &str) -> Result<ContainerFiles> {
    let state = format!("containers/{name}/state.json");
    Ok(ContainerFiles {
        definition: read_definition(pod, held, name)?,
        state: read(held, &state, || container_cure(pod, name))?,
    })
}

/// Reads a container's definition.
pub(crate) fn read_definition(
    pod: &DataPaths,
    held: &Dir,
    name: &str,
) -> Result<ContainerDefinition> {
    let path = pod.container(name)?.config();
    let cure = || container_cure(pod, name);
    let definition: ContainerDefinition =
        read(held, &format!("containers/{name}/config.json"), cure)?;
    is_of(&path, &definition.name, name, cure)?;
    Ok(definition)
}

/// The remedy for a container's bad file, for its error.
fn container_cure(pod: &DataPaths, name: &str) -> String {
    format!(
        "remove the container with `rust-kata container rm --force {}/{name}`",
        pod.name()
    )
}

/// The error for a pod that could not be read. A directory without a lock is reported as
/// damaged, not as a pod that is gone.
pub(super) fn explain(paths: &DataPaths, error: Error) -> Error {
    let explained = match error {
        Error::NotFound { .. } if paths.path().is_dir() && !paths.lock().exists() => {
            Error::bad_file(paths.lock(), "it is missing")
        }
        Error::Io { path, source, .. } => Error::bad_file(path, source),
        other => other,
    };
    explained.or_cure(|| cure(paths))
}

/// The remedy for a pod's bad file, for its error.
pub(super) fn cure(paths: &DataPaths) -> String {
    format!(
        "remove the pod with `rust-kata pod rm --force {}`",
        paths.name()
    )
}

fn read<T: Stored>(held: &Dir, name: &str, cure: impl Fn() -> String) -> Result<T> {
    held.read(name, &cure).map_err(|e| match e {
        Error::Io { path, source, .. } => Error::bad_file(path, source).or_cure(cure),
        other => other,
    })
}

/// Checks that a file belongs to the object of this name: a copied file would lead to another
/// one's directory.
fn is_of(path: &Path, named: &str, name: &str, cure: impl Fn() -> String) -> Result<()> {
    if named == name {
        return Ok(());
    }
    let problem = format!("it is of {named:?}, not of {name:?}");
    Err(Error::bad_file(path, problem).or_cure(cure))
}

/// The id of a pod; `None` if its definition cannot be read, or is of another pod.
pub(crate) fn id_of(paths: &DataPaths) -> Option<String> {
    let definition = read_pod_definition(paths, &hold(paths).ok()?);
    definition.ok().map(|definition| definition.id)
}

/// Reads a pod's definition.
pub(crate) fn pod_definition_of(paths: &DataPaths) -> Result<PodDefinition> {
    state_dir::read(&paths.config())
}

/// Reads a container's definition.
pub(crate) fn definition_of(paths: &ContainerPaths) -> Result<ContainerDefinition> {
    state_dir::read(&paths.config())
}

/// Creates the directory of a pod and its containers atomically.
///
/// # Errors
/// [`Error::AlreadyExists`] if the name is taken.
pub(crate) fn create_pod(
    paths: &DataPaths,
    definition: &PodDefinition,
    state: &PodState,
    with: &[ContainerDefinition],
) -> Result<()> {
    private::make(staging::parent(paths.path())?)?;
    staging::sweep(paths.staging_dir());
    staging::place(paths.path(), paths.staging_dir(), |dir| {
        let containers = dir.join("containers");
        private::make(&containers)?;
        for definition in with {
            let dir = containers.join(&definition.name);
            private::make(&dir)?;
            write_new_container(&dir, definition)?;
            state_dir::sync_dir(&dir)?;
        }
        state_dir::sync_dir(&containers)?;
        let lock = dir.join("lock");
        File::create(&lock).on("create", &lock)?;
        state_dir::write_new(&dir.join("config.json"), definition)?;
        state_dir::write_new(&dir.join("state.json"), state)
    })
    .map_err(|e| taken(e, "pod", paths.name()))
}

/// Creates a container's directory in its pod atomically. The caller holds the pod's lock.
///
/// # Errors
/// [`Error::AlreadyExists`] if the name is taken.
pub(crate) fn create_container(
    pod: &DataPaths,
    definition: &ContainerDefinition,
    _held: &PodLock,
) -> Result<()> {
    let paths = pod.container(&definition.name)?;
    staging::sweep(pod.path());
    staging::place(paths.path(), pod.path(), |dir| {
        write_new_container(dir, definition)
    })
    .map_err(|e| taken(e, "container", &definition.name))
}

fn write_new_container(dir: &Path, definition: &ContainerDefinition) -> Result<()> {
    state_dir::write_new(&dir.join("config.json"), definition)?;
    state_dir::write_new(&dir.join("state.json"), &ContainerState::default())
}

/// Writes a pod's state. The caller holds its lock.
pub(crate) fn write_pod(paths: &DataPaths, state: &PodState, _held: &PodLock) -> Result<()> {
    state_dir::write(&paths.state(), state)
}

/// Writes a container's state. The caller holds its pod's lock.
pub(crate) fn write_container(
    paths: &ContainerPaths,
    state: &ContainerState,
    _held: &PodLock,
) -> Result<()> {
    state_dir::write(&paths.state(), state)
}

/// The paths of all pods, of one namespace or of all.
pub(crate) fn pod_paths(data_root: &Path, namespace: Option<&str>) -> Result<Vec<DataPaths>> {
    let namespaces = match namespace {
        Some(one) => vec![one.to_owned()],
        None => names_in(&paths::pods(data_root))?,
    };
    let mut pods = Vec::new();
    for namespace in namespaces {
        for name in names_in(&paths::pods(data_root).join(&namespace))? {
            // A directory with an invalid name is not a pod.
            pods.extend(DataPaths::new(data_root, &namespace, &name));
        }
    }
    Ok(pods)
}

/// The id of the host's present boot.
pub(crate) fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    /// It does not change within the life of a process.
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id.clone());
    }
    let text = fs::read_to_string(PATH).on("read", PATH)?;
    Ok(ID.get_or_init(|| text.trim().to_owned()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records::definition::Rootfs;
    use crate::state_dir::lock;
    use oci_spec::runtime::Spec;

    fn pod(root: &Path) -> DataPaths {
        let paths = DataPaths::new(root, "local", "web").unwrap();
        let definition = PodDefinition::new("local", "web");
        create_pod(&paths, &definition, &PodState::default(), &[]).unwrap();
        paths
    }

    fn container(paths: &DataPaths, name: &str) -> Result<()> {
        let lock = PodLock::exclusive(paths).unwrap();
        let root = Rootfs::Directory("/".into());
        create_container(
            paths,
            &ContainerDefinition::new(name, root, Spec::default()),
            &lock,
        )
    }

    #[test]
    fn what_was_created_is_read() {
        let root = tempfile::tempdir().unwrap();
        let paths = pod(root.path());
        container(&paths, "a").unwrap();
        let files = read_pod(&paths, &hold(&paths).unwrap()).unwrap();
        assert_eq!(files.definition.unwrap().name, "web");
        let a = files.containers["a"].as_ref().unwrap();
        assert_eq!(a.state, ContainerState::default());
        assert_eq!(pod_paths(root.path(), None).unwrap(), vec![paths.clone()]);
        assert!(pod_paths(root.path(), Some("other")).unwrap().is_empty());
    }

    #[test]
    fn names_are_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let paths = pod(root.path());
        let again = create_pod(
            &paths,
            &PodDefinition::new("local", "web"),
            &PodState::default(),
            &[],
        );
        assert!(matches!(
            again,
            Err(Error::AlreadyExists { what: "pod", .. })
        ));
        container(&paths, "a").unwrap();
        let again = container(&paths, "a");
        assert!(matches!(
            again,
            Err(Error::AlreadyExists {
                what: "container",
                ..
            })
        ));
        // Nothing half made is left.
        let [there, beside] = [paths.containers(), root.path().to_owned()]
            .map(|dir| fs::read_dir(dir).unwrap().count());
        assert_eq!((there, beside), (1, 1));
    }

    #[test]
    fn a_bad_file_is_an_error_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let paths = pod(root.path());
        container(&paths, "a").unwrap();
        container(&paths, "b").unwrap();
        fs::write(paths.container("a").unwrap().state(), "").unwrap();
        let files = read_pod(&paths, &hold(&paths).unwrap()).unwrap();
        assert!(files.containers["a"].is_err() && files.containers["b"].is_ok());
    }

    #[test]
    fn removal_is_at_once_and_may_be_repeated() {
        let root = tempfile::tempdir().unwrap();
        let paths = pod(root.path());
        staging::remove(paths.path(), paths.staging_dir()).unwrap();
        assert!(pod_paths(root.path(), None).unwrap().is_empty());
        staging::remove(paths.path(), paths.staging_dir()).unwrap();
    }

    #[test]
    fn who_reads_a_pod_that_goes_sees_all_of_it_or_nothing() {
        let root = tempfile::tempdir().unwrap();
        for (gone, seen) in [(false, Some(2)), (true, None)] {
            let paths = pod(root.path());
            container(&paths, "a").unwrap();
            container(&paths, "b").unwrap();
            let read = lock::read_consistent(&paths, &lock::hold(&paths).unwrap(), |held, _| {
                let hidden = staging::hide(paths.path(), paths.staging_dir())?;
                if gone {
                    staging::clear(&hidden.join("containers/b")).unwrap();
                    // The lock is removed first, before `b`.
                    fs::remove_file(hidden.join("lock")).unwrap();
                }
                // Another pod of this name is not mistaken for it.
                pod(root.path());
                read_pod(&paths, held)
            });
            let found = match read {
                Ok(files) => Some(files.containers.len()),
                Err(Error::NotFound { .. }) => None,
                Err(e) => panic!("{e}"),
            };
            assert_eq!(found, seen);
            staging::remove(paths.path(), paths.staging_dir()).unwrap();
        }
    }
}
