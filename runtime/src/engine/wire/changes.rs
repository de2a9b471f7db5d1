//! Changes of containers as messages to the owner of their pod.

use oci_spec::runtime::LinuxResources;
use protos::management as api;
use protos::management::operation::Kind;

use crate::error::{Error, Result};

/// One change of some containers of a pod, or of all if the list is empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Build them up to the point where their inits wait.
    Init(Vec<String>),
    /// Start them; with `dependencies`, start their dependencies first.
    Start {
        /// The containers.
        containers: Vec<String>,
        /// Whether to start their dependencies, too.
        dependencies: bool,
    },
    /// Stop them; the VM stays.
    Stop {
        /// The containers.
        containers: Vec<String>,
        /// The stop time in place of each container's own; 0: kill at once.
        seconds: Option<u32>,
    },
    /// Stop and start them.
    Restart {
        /// The containers.
        containers: Vec<String>,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Freeze them.
    Pause(Vec<String>),
    /// Thaw them.
    Unpause(Vec<String>),
    /// Send them a signal.
    Kill {
        /// The containers.
        containers: Vec<String>,
        /// The signal.
        signal: u32,
        /// Whether to signal all processes instead of the inits alone.
        all: bool,
    },
    /// Remove them.
    Remove {
        /// The containers.
        containers: Vec<String>,
        /// Whether to stop running ones first.
        force: bool,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Change the limits of one.
    Update {
        /// The container.
        container: String,
        /// The limits to change; the others stay.
        resources: Box<LinuxResources>,
    },
}

pub(in crate::engine) fn to_operation(change: &Change) -> Result<api::Operation> {
    let kind = match change {
        Change::Init(names) => Kind::Init(request(names, false)),
        Change::Start {
            containers,
            dependencies,
        } => Kind::Start(request(containers, *dependencies)),
        Change::Stop {
            containers,
            seconds,
        } => Kind::Stop(stop_request(containers, *seconds)),
        Change::Restart {
            containers,
            seconds,
        } => Kind::Restart(stop_request(containers, *seconds)),
        Change::Pause(names) => Kind::Pause(request(names, false)),
        Change::Unpause(names) => Kind::Unpause(request(names, false)),
        Change::Kill {
            containers,
            signal,
            all,
        } => Kind::Kill(api::KillRequest {
            containers: containers.clone(),
            signal: *signal,
            all: *all,
            ..Default::default()
        }),
        Change::Remove {
            containers,
            force,
            seconds,
        } => Kind::Remove(api::RemoveRequest {
            containers: containers.clone(),
            force: *force,
            timeout: *seconds,
            ..Default::default()
        }),
        Change::Update {
            container,
            resources,
        } => Kind::Update(update_request(container, resources)?),
    };
    Ok(api::Operation {
        kind: Some(kind),
        ..Default::default()
    })
}

pub(in crate::engine) fn to_change(operation: api::Operation) -> Result<Change> {
    Ok(match operation.kind {
        Some(Kind::Init(r)) => Change::Init(r.containers),
        Some(Kind::Start(r)) => Change::Start {
            containers: r.containers,
            dependencies: r.dependencies,
        },
        Some(Kind::Stop(r)) => Change::Stop {
            containers: r.containers,
            seconds: r.timeout,
        },
        Some(Kind::Restart(r)) => Change::Restart {
            containers: r.containers,
            seconds: r.timeout,
        },
        Some(Kind::Pause(r)) => Change::Pause(r.containers),
        Some(Kind::Unpause(r)) => Change::Unpause(r.containers),
        Some(Kind::Kill(r)) => Change::Kill {
            containers: r.containers,
            signal: r.signal,
            all: r.all,
        },
        Some(Kind::Remove(r)) => Change::Remove {
            containers: r.containers,
            force: r.force,
            seconds: r.timeout,
        },
        Some(Kind::Update(r)) => Change::Update {
            resources: Box::new(parse_resources(&r.resources)?),
            container: r.container,
        },
        _ => return Err(Error::Unsupported("this change".into())),
    })
}

/// The request for new limits: OCI `LinuxResources` as JSON.
pub(in crate::engine) fn update_request(
    container: &str,
    resources: &LinuxResources,
) -> Result<api::UpdateRequest> {
    Ok(api::UpdateRequest {
        container: container.to_owned(),
        resources: serde_json::to_vec(resources).map_err(Error::encode("OCI resources"))?,
        ..Default::default()
    })
}

/// Parses new limits: OCI `LinuxResources` as JSON.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    serde_json::from_slice(json).map_err(Error::decode("OCI resources"))
}

pub(in crate::engine) fn request(
    containers: &[String],
    dependencies: bool,
) -> api::ContainersRequest {
    api::ContainersRequest {
        containers: containers.to_vec(),
        dependencies,
        ..Default::default()
    }
}

pub(in crate::engine) fn stop_request(
    containers: &[String],
    seconds: Option<u32>,
) -> api::StopRequest {
    api::StopRequest {
        containers: containers.to_vec(),
        timeout: seconds,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_travel() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let mut resources = LinuxResources::default();
        resources.set_pids(Some(Default::default()));
        let changes = [
            Change::Init(names.clone()),
            Change::Start {
                containers: names.clone(),
                dependencies: true,
            },
            Change::Stop {
                containers: Vec::new(),
                seconds: Some(0),
            },
            Change::Restart {
                containers: names.clone(),
                seconds: None,
            },
            Change::Pause(names.clone()),
            Change::Unpause(Vec::new()),
            Change::Kill {
                containers: names.clone(),
                signal: 9,
                all: true,
            },
            Change::Remove {
                containers: names,
                force: true,
                seconds: Some(3),
            },
            Change::Update {
                container: "a".into(),
                resources: Box::new(resources),
            },
        ];
        for change in changes {
            let operation = to_operation(&change).unwrap();
            assert_eq!(to_change(operation).unwrap(), change);
        }
        assert!(to_change(api::Operation::default()).is_err());
    }
}
