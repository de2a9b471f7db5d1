//! Which pod a container belongs to, by the annotations that containerd's CRI
//! plugin writes.

use std::collections::HashMap;

use crate::error::{Error, Result};

const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// A container's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// A container without a pod: it is a pod of its own.
    Alone,
    /// The pod's sandbox ("pause"): its id is the pod's.
    Sandbox,
    /// A container of the pod with this sandbox.
    Member(String),
}

impl Group {
    /// Reads the annotations of a container.
    pub fn of(annotations: &HashMap<String, String>) -> Result<Self> {
        match annotations.get(CONTAINER_TYPE).map(String::as_str) {
            None | Some("") => Ok(Self::Alone),
            Some("sandbox") => Ok(Self::Sandbox),
            Some("container") => match annotations.get(SANDBOX_ID) {
                Some(id) if !id.is_empty() => Ok(Self::Member(id.clone())),
                _ => Err(Error::Annotations(format!(
                    "the annotation {CONTAINER_TYPE}=container needs {SANDBOX_ID}"
                ))),
            },
            Some(other) => Err(Error::Annotations(format!(
                "the annotation {CONTAINER_TYPE} is \"sandbox\" or \"container\", not {other:?}"
            ))),
        }
    }

    /// The pod of the container `id`.
    pub fn pod<'a>(&'a self, id: &'a str) -> &'a str {
        match self {
            Self::Alone | Self::Sandbox => id,
            Self::Member(sandbox) => sandbox,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(pairs: &[(&str, &str)]) -> Result<Group> {
        Group::of(
            &pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        )
    }

    #[test]
    fn kinds() {
        assert_eq!(group(&[]).unwrap().pod("c"), "c");
        let sandbox = group(&[(CONTAINER_TYPE, "sandbox"), (SANDBOX_ID, "s")]).unwrap();
        assert_eq!(sandbox, Group::Sandbox);
        assert_eq!(sandbox.pod("s"), "s");
        let member = group(&[(CONTAINER_TYPE, "container"), (SANDBOX_ID, "s")]).unwrap();
        assert_eq!(member.pod("c"), "s");
    }

    #[test]
    fn contradictions_are_errors() {
        assert!(group(&[(CONTAINER_TYPE, "container")]).is_err());
        assert!(group(&[(CONTAINER_TYPE, "podlet")]).is_err());
    }
}
