//! Refuses containers that ask for a namespace of the host by its name: otherwise they would
//! silently get the VM's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};

use crate::container::cri::Dialect;
use crate::error::{Result, SpecError};

/// A namespace that a container may ask to share with the host.
struct Shared {
    kind: Type,
    /// Its word in `linux.namespaces`, and its name in `/proc/<pid>/ns`.
    word: &'static str,
    file: &'static str,
    /// The options of Kubernetes, Docker and ctr for the host's namespace.
    asked_by: &'static str,
}

const SHARED: [Shared; 3] = [
    Shared {
        kind: Type::Network,
        word: "network",
        file: "net",
        asked_by: "hostNetwork, --network host, --net-host",
    },
    Shared {
        kind: Type::Ipc,
        word: "ipc",
        file: "ipc",
        asked_by: "hostIPC, --ipc host",
    },
    Shared {
        kind: Type::Pid,
        word: "pid",
        file: "pid",
        asked_by: "hostPID, --pid host",
    },
];

/// Checks that a container does not ask for the host's network, IPC or pid namespace. It asks
/// for one by leaving out its own (OCI runtime specification, "Linux Namespaces") or, if it is
/// the `first` of its pod, by the path of the host's. Further containers join the namespaces of
/// the pod's pid proxy on the host, which are the host's if the pod was given none: those paths
/// are allowed.
///
/// A missing pid namespace is refused only with the CRI, where it means the host's. Elsewhere
/// it means the VM's, which belongs to the pod alone.
///
/// # Errors
/// [`SpecError::HostNamespace`] naming the field and the way out.
pub fn check_host_namespaces(spec: &Spec, first: bool) -> Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let annotations = spec.annotations().as_ref();
    let of_cri = annotations.is_some_and(|a| Dialect::of(a).is_some());
    for shared in &SHARED {
        let mut found = namespaces.into_iter().flatten();
        let found = found.find(|namespace| namespace.typ() == shared.kind);
        let path = match found.map(|namespace| namespace.path().as_deref()) {
            None if shared.kind != Type::Pid || of_cri => None,
            Some(Some(path)) if first && is_ours(path, shared.file) => Some(path.to_owned()),
            _ => continue,
        };
        return Err(SpecError::HostNamespace {
            namespace: shared.word,
            asked_by: shared.asked_by,
            path,
        }
        .into());
    }
    Ok(())
}

/// Whether a path is a namespace of this process: the shim is in the host's namespaces.
fn is_ours(path: &Path, file: &str) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino()));
    match (id(path), id(&Path::new("/proc/self/ns").join(file))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cri::CONTAINERD;
    use crate::error::Error;
    use serde_json::{Value, json};
    use std::path::PathBuf;

    fn spec(namespaces: Value, annotations: Value) -> Spec {
        let spec = json!({
            "ociVersion": "1.0.2",
            "annotations": annotations,
            "linux": {"namespaces": namespaces}
        });
        serde_json::from_value(spec).unwrap()
    }

    /// The namespace that is refused, and the path to the host's.
    fn refusal(
        namespaces: Value,
        annotations: Value,
        first: bool,
    ) -> Option<(&'static str, Option<PathBuf>)> {
        match check_host_namespaces(&spec(namespaces, annotations), first).err()? {
            Error::Spec(SpecError::HostNamespace {
                namespace, path, ..
            }) => Some((namespace, path)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_is_named_with_the_way_out() {
        let all = json!([{"type": "network"}, {"type": "ipc"}, {"type": "pid"}]);
        let cri = json!({CONTAINERD.container_type: "sandbox"});
        assert_eq!(refusal(all.clone(), cri.clone(), true), None);
        for (n, word) in ["network", "ipc", "pid"].into_iter().enumerate() {
            let mut some = all.clone();
            some.as_array_mut().unwrap().remove(n);
            let refused = refusal(some.clone(), cri.clone(), true);
            assert_eq!(refused, Some((word, None)));
            // Without the CRI a pid namespace may be the VM's.
            assert_eq!(refusal(some, json!({}), true).is_none(), word == "pid");
        }
        let none = spec(json!([]), json!({}));
        assert!(check_host_namespaces(&none, true).is_err());
    }

    #[test]
    fn a_path_to_the_hosts_is_refused_to_the_first_container() {
        for (word, file) in [("network", "net"), ("ipc", "ipc"), ("pid", "pid")] {
            let list = ["network", "ipc", "pid"].map(|kind| match kind == word {
                true => json!({"type": kind, "path": format!("/proc/self/ns/{file}")}),
                false => json!({"type": kind}),
            });
            let refused = refusal(json!(list), json!({}), true);
            let path = PathBuf::from(format!("/proc/self/ns/{file}"));
            assert_eq!(refused, Some((word, Some(path))));
            // The path to the pid proxy of a pod without a namespace of its own.
            assert_eq!(refusal(json!(list), json!({}), false), None);
        }
        let gone = json!([{"type": "network", "path": "/no/such"}, {"type": "ipc"}]);
        assert_eq!(refusal(gone, json!({}), true), None);
    }
}
