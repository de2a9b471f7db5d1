//! The remains of a container's last run in its directory.

use super::paths::ContainerPaths;
use super::record::ContainerState;
use crate::error::{Context, Error, Result};
use crate::host::mount::unmount_below;

/// Refuses a container that is in use.
pub(crate) fn may_clean(name: &str, state: &ContainerState) -> Result<()> {
    let refused = |state: String| {
        Err(Error::WrongState {
            what: "container",
            id: name.to_owned(),
            operation: "clean up",
            state,
        })
    };
    if state.status.is_running() {
        return refused(state.status.to_string());
    }
    if state.mounts > 0 {
        return refused(format!(
            "mounted {} time(s): unmount it first",
            state.mounts
        ));
    }
    Ok(())
}

/// Unmounts everything below, and removes the bundle of the last start.
pub(crate) fn clean(paths: &ContainerPaths) -> Result<()> {
    unmount_below(paths.path())?;
    let bundle = paths.bundle();
    match std::fs::remove_dir_all(&bundle) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", &bundle),
        _ => Ok(()),
    }
}
