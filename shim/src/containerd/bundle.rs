//! The files of a bundle that this shim reads and writes.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::Result;
use runtime::error::Context;

use crate::containerd::address::{Address, SOCKET_DIR};
use crate::containerd::options::Given;

/// The address of the container's shim. containerd reads it after a restart.
pub const ADDRESS: &str = "address";

/// The pid of the process that serves the container's pod.
pub const SHIM_PID: &str = "shim.pid";

/// The container's pid on the host, under the name that runc's shim uses: for a `delete` after
/// another one has removed the pod's state.
const INIT_PID: &str = "init.pid";

/// The path of the configuration, if the client named one: the server and a later `delete` use
/// the same.
const CONFIG: &str = "rust-kata-config";

/// The text of the configuration, if the client gave it.
const CONFIG_BODY: &str = "rust-kata-config.toml";

/// Writes a small file atomically: readers never see half of it.
pub fn write(bundle: &Path, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
    let temporary = bundle.join(format!(".{name}"));
    let path = bundle.join(name);
    fs::write(&temporary, text).on("write", &temporary)?;
    fs::rename(&temporary, &path).on("write", &path)
}

/// Records the configuration that the client gave and returns its file.
pub fn record_config(bundle: &Path, given: Given) -> Result<PathBuf> {
    let path = match given {
        Given::Path(path) => path,
        Given::Body(text) => {
            write(bundle, CONFIG_BODY, text)?;
            bundle.join(CONFIG_BODY)
        }
    };
    write(bundle, CONFIG, crate::containerd::proto::text(&path))?;
    Ok(path)
}

/// The recorded configuration, if the client gave one.
pub fn recorded_config_path(bundle: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(bundle.join(CONFIG)).ok()?;
    Some(PathBuf::from(text))
}

/// The address of the container's shim: as recorded, else by convention.
pub fn address(bundle: &Path, containerd: &str, namespace: &str, pod: &str) -> Address {
    match fs::read_to_string(bundle.join(ADDRESS)) {
        Ok(text) if !text.trim().is_empty() => Address::parse(&text),
        _ => Address::of(Path::new(SOCKET_DIR), containerd, namespace, pod),
    }
}

/// Records a container's pid, if possible. The pid appears only in the last event of a
/// container whose shim was killed.
pub fn record_pid(bundle: &Path, pid: u32) {
    if let Err(error) = write(bundle, INIT_PID, pid.to_string()) {
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
        for (given, path) in [
            (Given::Path("/c.toml".into()), PathBuf::from("/c.toml")),
            (
                Given::Body(b"vcpus = 2\n".into()),
                dir.path().join(CONFIG_BODY),
            ),
        ] {
            assert_eq!(record_config(dir.path(), given).unwrap(), path);
            assert_eq!(recorded_config_path(dir.path()), Some(path));
        }
        let body = fs::read(dir.path().join(CONFIG_BODY)).unwrap();
        assert_eq!(body, b"vcpus = 2\n");
        assert!(!dir.path().join(format!(".{CONFIG}")).exists());
    }

    #[test]
    fn the_recorded_address_goes_before_the_convention() {
        let dir = tempfile::tempdir().unwrap();
        let of = |dir: &Path| address(dir, "/c.sock", "ns", "p");
        let convention = Address::of(Path::new(SOCKET_DIR), "/c.sock", "ns", "p");
        assert_eq!(of(dir.path()), convention);
        write(dir.path(), ADDRESS, "unix:///elsewhere/s").unwrap();
        assert_eq!(of(dir.path()), Address::parse("/elsewhere/s"));
    }

    #[test]
    fn the_pid_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded_pid(dir.path()), 0);
        record_pid(dir.path(), 7);
        assert_eq!(recorded_pid(dir.path()), 7);
    }
}
