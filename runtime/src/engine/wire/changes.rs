//! Changes of containers, as they travel to the owner of their pod.

use oci_spec::runtime::LinuxResources;
use protos::management as api;
use protos::management::operation::Kind;

use crate::error::{Error, Result};

/// One change of some containers of a pod; of all, if none is named.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Builds them up to where their inits wait.
    Init(Vec<String>),
    /// Starts them; with `dependencies`, first those that they depend on.
    Start {
        /// Which.
        containers: Vec<String>,
        /// What they depend on, too.
        dependencies: bool,
    },
    /// Stops them; the VM stays.
    Stop {
        /// Which.
        containers: Vec<String>,
        /// Instead of each container's own time; 0 kills at once.
        seconds: Option<u32>,
    },
    /// Stops and starts them.
    Restart {
        /// Which.
        containers: Vec<String>,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Freezes them.
    Pause(Vec<String>),
    /// Thaws them.
    Unpause(Vec<String>),
    /// Sends them a signal.
    Kill {
        /// Which.
        containers: Vec<String>,
        /// The signal.
        signal: u32,
        /// Every process, not their inits alone.
        all: bool,
    },
    /// Removes them.
    Remove {
        /// Which.
        containers: Vec<String>,
        /// Those that run are stopped first.
        force: bool,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Changes the limits of one.
    Update {
        /// Which.
        container: String,
        /// What is given is changed, the rest stays.
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
        _ => return Err(Error::Unsupported("This change".into())),
    })
}

/// New limits, as they travel: OCI `LinuxResources` as JSON.
pub(in crate::engine) fn update_request(
    container: &str,
    resources: &LinuxResources,
) -> Result<api::UpdateRequest> {
    Ok(api::UpdateRequest {
        container: container.to_owned(),
        resources: serde_json::to_vec(resources).map_err(|e| Error::Internal(e.to_string()))?,
        ..Default::default()
    })
}

/// New limits, from OCI `LinuxResources` as JSON.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    serde_json::from_slice(json).map_err(|e| {
        Error::Invalid(format!(
            "The resources to update are not OCI LinuxResources: {e}"
        ))
    })
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
