//! The annotations by which CRI implementations mark sandboxes and containers.
//!
//! containerd's CRI plugin (`pkg/cri/annotations`) and CRI-O (`pkg/annotations/internal.go`)
//! use different names for the same annotations.

use std::collections::HashMap;

/// The annotations of one CRI implementation.
#[derive(Debug)]
pub struct Dialect {
    /// The annotation for the kind: `sandbox` or `container`.
    pub container_type: &'static str,
    /// The annotation for the sandbox of a container.
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
    /// The dialect of a container's annotations; `None` outside CRI pods.
    pub fn of(annotations: &HashMap<String, String>) -> Option<&'static Dialect> {
        [&CONTAINERD, &CRI_O]
            .into_iter()
            .find(|dialect| annotations.contains_key(dialect.container_type))
    }

    /// Whether this is CRI-O's. CRI-O reads events from files of the bundle.
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
