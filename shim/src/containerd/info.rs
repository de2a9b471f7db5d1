//! `-info`: prints the name and the features of this runtime, as containerd from 2.0 on asks
//! for them.
//!
//! stdin holds the runtime options as an `Any`, or nothing; stdout gets a `RuntimeInfo`
//! (containerd core/runtime/v2/task_manager.go `getRuntimeInfo`). The kubelet schedules pods by
//! these features, so only what works is listed. The configuration is not read: a broken one is
//! reported when a pod starts.

use std::io::Write;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};

use crate::containerd::bootstrap::stdin;
use crate::error::{Context, Error, Result};

/// The name that selects this runtime in containerd.
const NAME: &str = "io.containerd.rust-kata.v2";

/// containerd's type of the OCI features document (core/runtime/v2/shim.go, `typeurl.Register`).
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints the answer.
pub fn run() -> Result<()> {
    let info = info(&stdin()?);
    let bytes = info.write_to_bytes().map_err(Error::Answer)?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&bytes)
        .and_then(|()| stdout.flush())
        .doing("print the answer")
}

fn info(options: &[u8]) -> RuntimeInfo {
    // The options are returned as they came; they do not change the answer.
    let options = Any::parse_from_bytes(options).ok();
    RuntimeInfo {
        name: NAME.into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        }),
        options: options.filter(|any| !any.type_url.is_empty()).into(),
        features: MessageField::some(Any {
            type_url: FEATURES.into(),
            value: features().to_string().into_bytes(),
            ..Any::default()
        }),
        ..RuntimeInfo::default()
    }
}

/// The OCI features document (runtime-spec, features.md and features-linux.md).
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci_spec::runtime::VERSION,
        // createContainer is refused: it would run a program of the host in the guest.
        "hooks": ["prestart", "createRuntime", "startContainer", "poststart", "poststop"],
        // idmap is missing, and so are the options that make the guest's mounts appear on the
        // host.
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "noatime",
            "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime", "nosuid", "private",
            "rbind", "relatime", "ro", "rprivate", "rro", "rslave", "rw", "slave", "strictatime", "suid", "sync",
        ],
        "linux": {
            // User namespaces are refused.
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                // All but SCMP_ACT_NOTIFY.
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Features, LinuxNamespaceType};

    fn read() -> Features {
        let any = info(b"").features.unwrap();
        assert_eq!(any.type_url, FEATURES);
        serde_json::from_slice(&any.value).unwrap()
    }

    #[test]
    fn the_features_are_those_of_the_specification() {
        let features = read();
        let linux = features.linux().as_ref().unwrap();
        let idmap = linux.mount_extensions().as_ref().unwrap().idmap().as_ref();
        assert_eq!(*idmap.unwrap().enabled(), Some(false));
        assert_eq!(*linux.seccomp().as_ref().unwrap().enabled(), Some(true));
        assert!(
            !features
                .hooks()
                .as_ref()
                .unwrap()
                .contains(&"createContainer".into())
        );
    }

    #[test]
    fn what_the_kubelet_looks_for_is_promised_where_it_is_kept() {
        let features = read();
        let namespaces = features.linux().as_ref().unwrap().namespaces().clone();
        assert!(!namespaces.unwrap().contains(&LinuxNamespaceType::User));
        let options = features.mount_options().clone().unwrap();
        assert!(options.contains(&"rro".into()) && !options.contains(&"idmap".into()));
    }

    #[test]
    fn any_options_will_do() {
        let options = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: b"\x12\x7f".into(),
            ..Any::default()
        };
        let told = info(&options.write_to_bytes().unwrap());
        assert_eq!(told.options.as_ref(), Some(&options));
        for nothing in [b"".as_slice(), b"\xff\xff"] {
            assert!(info(nothing).options.is_none());
        }
    }
}
