//! The annotations by which CRI implementations tell what a container is.
//!
//! containerd's CRI plugin (`pkg/cri/annotations`) and CRI-O (`pkg/annotations/internal.go`) have each their own
//! names for the same.

use std::collections::HashMap;

/// The annotations of one CRI implementation.
#[derive(Debug)]
pub struct Dialect {
    /// `sandbox` or `container`.
    pub container_type: &'static str,
    /// The sandbox of a container.
    pub sandbox_id: &'static str,
}

/// containerd's.
pub const CONTAINERD: Dialect = Dialect {
    container_type: "io.kubernetes.cri.container-type",
    sandbox_id: "io.kubernetes.cri.sandbox-id",
};

/// CRI-O's.
pub const CRI_O: Dialect = Dialect {
    container_type: "io.kubernetes.cri-o.ContainerType",
    sandbox_id: "io.kubernetes.cri-o.SandboxID",
};

impl Dialect {
    /// The one that a container's annotations are in; none if it is of no CRI pod.
    pub fn of(annotations: &HashMap<String, String>) -> Option<&'static Dialect> {
        [&CONTAINERD, &CRI_O]
            .into_iter()
            .find(|dialect| annotations.contains_key(dialect.container_type))
    }

    /// CRI-O's, which learns of what happened from files of the bundle instead of events.
    pub fn is_cri_o(&self) -> bool {
        self.container_type == CRI_O.container_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_container_type() {
        let of = |key: &str| Dialect::of(&HashMap::from([(key.to_owned(), "sandbox".to_owned())]));
        assert!(!of("io.kubernetes.cri.container-type").unwrap().is_cri_o());
        assert!(of("io.kubernetes.cri-o.ContainerType").unwrap().is_cri_o());
        assert!(of("io.kubernetes.cri-o.SandboxID").is_none());
    }
}
