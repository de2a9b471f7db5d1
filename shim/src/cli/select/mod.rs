//! The arguments of commands that name pods and containers, and the objects with these names.

mod containers;
mod pods;

use clap::Args;
use runtime::ErrorKind;
use runtime::engine::PodHandle;
use runtime::engine::foreign::{ForeignContainer, ListedPod};

pub(crate) use self::containers::{Containers, ContainersOrAll, Groups};
pub(crate) use self::pods::Pods;
use super::context::Context;
use super::error::CliResult;
use super::failures::Failures;
use super::foreign;
use crate::error::Error;

/// How a command acts on several objects. An error of one does not keep the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// On pod after pod: each may boot a VM.
    InTurn,
    /// On several pods at the same time.
    SideBySide,
    /// As `SideBySide`, and removes them. With `force`, objects that do not exist are no error.
    Removal { force: bool },
}

impl Manner {
    fn forced(self) -> bool {
        self == Self::Removal { force: true }
    }

    /// Reports that an object was not found, unless that is no error here.
    fn report_missing(self, failures: &mut Failures, error: &Error) {
        match self {
            Self::Removal { force: true } if is_not_found(error) => {}
            Self::Removal { .. } if is_not_found(error) => failures.report_removal(error),
            _ => failures.report(error),
        }
    }

    /// Whether this is an error here.
    fn minds(self, error: &Error) -> bool {
        !(self.forced() && is_not_found(error))
    }
}

/// Whether an error says that an object does not exist.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Runtime(error) if error.kind() == ErrorKind::NotFound)
}

/// A container, by the manager of its pod.
pub(crate) enum Container {
    /// A container in a pod of the engine.
    Managed(PodHandle, String),
    /// A container in a pod of containerd, or of the shim's `run`.
    Foreign(Box<ForeignContainer>),
}

/// A pod, by its manager.
pub(crate) enum Pod {
    /// A pod of the engine.
    Managed(PodHandle),
    /// A pod of containerd, or of the shim's `run`.
    Foreign(Box<ListedPod>),
}

impl Context {
    /// The pod of the engine with this name or id. A foreign pod is refused with
    /// a hint at the right tool.
    pub(crate) fn pod(&self, wanted: &str) -> CliResult<PodHandle> {
        match self.any_pod(wanted)? {
            Pod::Managed(pod) => Ok(pod),
            Pod::Foreign(pod) => Err(pod.refusal().into()),
        }
    }

    /// The pod with this name or id, managed or foreign.
    pub(crate) fn any_pod(&self, wanted: &str) -> CliResult<Pod> {
        match self.engine.find_pod(self.namespace.as_deref(), wanted) {
            Err(e @ runtime::Error::NotFound { .. }) => match foreign::pod(self, wanted)? {
                Some(pod) => Ok(Pod::Foreign(Box::new(pod))),
                None => Err(e.into()),
            },
            other => Ok(Pod::Managed(other?)),
        }
    }

    /// The container of the engine with this name or id, and its pod. A foreign
    /// container is refused with a hint at the right tool.
    pub(crate) fn container(&self, wanted: &str) -> CliResult<(PodHandle, String)> {
        match self.any_container(wanted)? {
            Container::Managed(pod, name) => Ok((pod, name)),
            Container::Foreign(foreign) => Err(foreign.refusal().into()),
        }
    }

    /// The container with this name or id, managed or foreign.
    pub(crate) fn any_container(&self, wanted: &str) -> CliResult<Container> {
        let found = self
            .engine
            .find_container(self.namespace.as_deref(), wanted);
        match found {
            Ok((pod, name)) => Ok(Container::Managed(pod, name)),
            Err(e @ runtime::Error::NotFound { .. }) => match foreign::container(self, wanted)? {
                Some(foreign) => Ok(Container::Foreign(Box::new(foreign))),
                None => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }
}

/// One container.
#[derive(Debug, Args)]
pub(crate) struct OneContainer {
    /// Container by name, POD/NAME, id or the beginning of an id
    pub(crate) container: String,
}

/// One pod.
#[derive(Debug, Args)]
pub(crate) struct OnePod {
    /// Pod by name, id or the beginning of an id
    pub(crate) pod: String,
}
