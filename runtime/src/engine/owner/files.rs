//! Root file systems of the owner's containers, for programs on the host.

use std::path::PathBuf;

use super::Owner;
use crate::engine::rootfs::not_mounted;
use crate::engine::rootfs::{self, RootfsUser};
use crate::error::Result;

impl Owner {
    /// As `PodHandle::mount`, also for a lease.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::Image`] if its image is damaged.
    pub async fn mount(&self, name: &str, user: RootfsUser) -> Result<PathBuf> {
        // The container must not be built or removed at the same time.
        let _op = self.op.lock().await;
        let container = self.tracked(name)?;
        let paths = self.paths.container(name)?;
        let live = container.now().status.is_live();
        let live = self.live().filter(|_| live).map(|pod| pod.rootfs(name));
        let mut path = Ok(PathBuf::new());
        self.change(&container, |state| {
            path = rootfs::hold(&container.definition, &paths, live.as_deref(), user, state);
        })?;
        path
    }

    /// As `PodHandle::unmount`, also for a lease.
    ///
    /// # Errors
    /// [`crate::Error::WrongState`] if it is not mounted; [`crate::Error::Busy`].
    pub async fn unmount(&self, name: &str, user: RootfsUser, force: bool) -> Result<()> {
        let _op = self.op.lock().await;
        let container = self.tracked(name)?;
        let paths = self.paths.container(name)?;
        let mut used = Ok(false);
        self.change(&container, |state| {
            used = rootfs::release(&paths, user, force, state);
        })?;
        not_mounted(name, used? || user == RootfsUser::Lease)
    }

    /// Makes the guest see changes of files on the host.
    ///
    /// # Errors
    /// The agent's.
    pub async fn files_changed(&self) -> Result<()> {
        match self.live() {
            Some(pod) => pod.forget_files().await,
            None => Ok(()),
        }
    }
}
