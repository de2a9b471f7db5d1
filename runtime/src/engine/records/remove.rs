//! Removing the directories of containers and pods.

use super::paths::{ContainerPaths, DataPaths};
use crate::engine::journal::{Event, Kind};
use crate::engine::records;
use crate::engine::status::ContainerStatus;
use crate::error::{Error, Result};
use crate::host::mount::unmount_below;
use crate::state_dir::lock::PodLock;
use crate::state_dir::staging;

/// Refuses to remove a pod that has containers.
pub(crate) fn check_empty(pod: &str, containers: usize) -> Result<()> {
    if containers == 0 {
        return Ok(());
    }
    Err(Error::WrongState {
        what: "pod",
        id: pod.to_owned(),
        operation: "remove",
        state: format!("in use by {containers} container(s): remove them first, or use --force"),
    })
}

/// The error for removing a container in a state in which it runs.
pub(crate) fn still_running(name: &str, status: ContainerStatus) -> Error {
    Error::WrongState {
        what: "container",
        id: name.to_owned(),
        operation: "remove",
        state: format!("{status}: stop it first, or use --force"),
    }
}

/// The error for removing a container that one depends on that stays.
pub(crate) fn needed_by(name: &str, dependent: &str) -> Error {
    Error::WrongState {
        what: "container",
        id: name.to_owned(),
        operation: "remove",
        state: format!("needed by {dependent}"),
    }
}

/// Empties the logs of a container, which is about to be removed.
pub(crate) fn empty_logs(paths: &ContainerPaths) {
    for log in paths.logs() {
        let opened = std::fs::File::options()
            .write(true)
            .truncate(true)
            .open(&log);
        if let Err(e) = opened
            && e.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("{}: {e}", log.display());
        }
    }
}

/// Removes a container's directory. The caller holds the pod's lock.
pub(crate) fn container(pod: &DataPaths, name: &str, _held: &PodLock) -> Result<()> {
    let paths = pod.container(name)?;
    let definition = records::definition_of(&paths);
    let of = records::pod_definition_of(pod);
    unmount_below(paths.path())?;
    staging::remove(paths.path(), pod.path())?;
    pod.journal().append_or_warn(match (of, definition) {
        (Ok(pod), Ok(definition)) => Event::container(&pod, &definition, "remove"),
        // A container with damaged files has only its name.
        _ => Event {
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            ..Event::new(Kind::Container, "remove", name, "")
        },
    });
    Ok(())
}

/// Removes a pod's directory, its containers first. The caller holds the pod's lock; the pod
/// has no owner.
pub(crate) fn pod(paths: &DataPaths, held: &PodLock) -> Result<()> {
    let mut first = None;
    let names = records::names_in(&paths.containers()).unwrap_or_else(|e| {
        log::warn!("{e}");
        Vec::new()
    });
    for name in names {
        if let Err(e) = container(paths, &name, held) {
            log::warn!("Container {name}: {e}");
            first.get_or_insert(e);
        }
    }
    // The pod is removed even if removing a container failed.
    let definition = records::pod_definition_of(paths);
    unmount_below(paths.path())?;
    staging::remove(paths.path(), paths.staging_dir())?;
    paths.journal().append_or_warn(match definition {
        Ok(definition) => Event::pod(&definition, "remove"),
        Err(_) => Event {
            namespace: paths.namespace().to_owned(),
            pod: paths.name().to_owned(),
            ..Event::new(Kind::Pod, "remove", paths.name(), "")
        },
    });
    first.map_or(Ok(()), Err)
}
