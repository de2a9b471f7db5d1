//! The pod that a container belongs to, by the annotations of containerd's CRI plugin or of
//! CRI-O.

use std::collections::HashMap;

use runtime::container::cri::Dialect;
use runtime::{Error, Result};

/// The relation of a container to its pod.
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
    ///
    /// # Errors
    /// [`Error::Requires`] and [`Error::InvalidValue`] for contradictions.
    pub fn of(annotations: &HashMap<String, String>) -> Result<Self> {
        let Some(dialect) = Dialect::of(annotations) else {
            return Ok(Self::Alone);
        };
        let (kind, sandbox) = (dialect.container_type, dialect.sandbox_id);
        match annotations.get(kind).map(String::as_str) {
            None | Some("") => Ok(Self::Alone),
            Some("sandbox") => Ok(Self::Sandbox),
            Some("container") => match annotations.get(sandbox) {
                Some(id) if !id.is_empty() => Ok(Self::Member(id.clone())),
                _ => {
                    let what = format!("annotation {kind}=container");
                    Err(Error::requires(what, format!("annotation {sandbox}")))
                }
            },
            Some(other) => {
                let field = format!("annotation {kind}");
                Err(Error::invalid(field, other, "sandbox or container"))
            }
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
    use runtime::container::cri::{CONTAINERD, CRI_O};

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
        for dialect in [CONTAINERD, CRI_O] {
            let (kind, id) = (dialect.container_type, dialect.sandbox_id);
            let sandbox = group(&[(kind, "sandbox"), (id, "s")]).unwrap();
            assert_eq!(sandbox, Group::Sandbox);
            assert_eq!(sandbox.pod("s"), "s");
            let member = group(&[(kind, "container"), (id, "s")]).unwrap();
            assert_eq!(member.pod("c"), "s");
        }
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        group(pairs).unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_errors() {
        for dialect in [CONTAINERD, CRI_O] {
            let (kind, id) = (dialect.container_type, dialect.sandbox_id);
            for member in [&[(kind, "container")][..], &[(kind, "container"), (id, "")]] {
                assert!(refusal(member).contains(id));
            }
            assert!(
                refusal(&[(kind, "podlet")]).contains("\"podlet\": expected sandbox or container")
            );
            assert_eq!(group(&[(kind, "")]).unwrap(), Group::Alone);
            assert_eq!(group(&[(id, "s")]).unwrap(), Group::Alone);
        }
        // The dialects have different names for the sandbox's id.
        let mixed = [
            (CRI_O.container_type, "container"),
            (CONTAINERD.sandbox_id, "s"),
        ];
        assert!(refusal(&mixed).contains(CRI_O.sandbox_id));
    }
}
