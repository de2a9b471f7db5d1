//! The files of a bundle that this shim reads and writes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Context, Result};

/// Where the container's shim listens. containerd reads it after a restart.
pub const ADDRESS: &str = "address";

/// The process that serves the container's pod.
pub const SHIM_PID: &str = "shim.pid";

/// The container's pid on the host, as runc's shim leaves it: for a `delete`
/// that comes when another one has removed the pod's state already.
const INIT_PID: &str = "init.pid";

/// Names the configuration, when the client did: the server and a later
/// `delete` are to use the same.
const CONFIG: &str = "rust-kata-config";

/// The annotations of a spec.
pub fn annotations(spec: &Spec) -> HashMap<String, String> {
    spec.annotations().clone().unwrap_or_default()
}

/// Writes a small file so that nobody ever reads half of it.
pub fn write(bundle: &Path, name: &str, text: &str) -> Result<()> {
    let temporary = bundle.join(format!(".{name}"));
    let path = bundle.join(name);
    fs::write(&temporary, text).on("write", &temporary)?;
    fs::rename(&temporary, &path).on("write", &path)
}

/// Records which configuration the client asked for.
pub fn record_config_path(bundle: &Path, path: &Path) -> Result<()> {
    write(bundle, CONFIG, &crate::proto::text(path))
}

/// The configuration that the client asked for, if it did.
pub fn recorded_config_path(bundle: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(bundle.join(CONFIG)).ok()?;
    Some(PathBuf::from(text))
}

/// Records a container's pid. Best effort: nothing depends on it but the pid
/// in the last event of a container whose shim was killed.
pub fn record_pid(bundle: &Path, pid: u32) {
    if let Err(error) = write(bundle, INIT_PID, &pid.to_string()) {
        log::warn!("{error}");
    }
}

/// The recorded pid, or 0.
pub fn recorded_pid(bundle: &Path) -> u32 {
    let text = fs::read_to_string(bundle.join(INIT_PID)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded_config_path(dir.path()), None);
        record_config_path(dir.path(), Path::new("/c.toml")).unwrap();
        let recorded = recorded_config_path(dir.path());
        assert_eq!(recorded, Some(PathBuf::from("/c.toml")));
        assert!(!dir.path().join(format!(".{CONFIG}")).exists());
    }

    #[test]
    fn the_pid_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded_pid(dir.path()), 0);
        record_pid(dir.path(), 7);
        assert_eq!(recorded_pid(dir.path()), 7);
    }
}
