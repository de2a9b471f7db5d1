//! Root file systems of containers on the host: mounted for users (`mount`), or leased by
//! a process that copies (`cp`, `export`).

use std::path::{Path, PathBuf};

use protos::management as api;

use super::{PodHandle, ignore_in_use_or_gone};
use crate::engine::records;
use crate::engine::records::view::PodView;
use crate::engine::rootfs::not_mounted;
use crate::engine::rootfs::{self, RootfsLease, RootfsUser};
use crate::error::Result;
use crate::state_dir::lock::PodLock;

/// A container's root file system, leased by a process that copies.
#[derive(Debug)]
pub struct LeasedRootfs {
    path: PathBuf,
    container: String,
    lease: RootfsLease,
}

impl LeasedRootfs {
    /// Its path. Names below it are under the container's control: resolve them only
    /// beneath this root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::engine) fn container(&self) -> &str {
        &self.container
    }
}

impl PodHandle {
    /// Mounts a container's root file system on the host and returns its path. It stays mounted
    /// until [`PodHandle::unmount`] was called as often.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::Image`] if its image is damaged.
    pub async fn mount(&self, container: &str) -> Result<PathBuf> {
        let path = self.hold(container, RootfsUser::Mount).await?;
        self.append_event(container, "mount");
        Ok(path)
    }

    /// Undoes one [`PodHandle::mount`], or all with `force`.
    ///
    /// # Errors
    /// [`crate::Error::WrongState`] if it is not mounted; [`crate::Error::Busy`] if a process
    /// still uses the mount.
    pub async fn unmount(&self, container: &str, force: bool) -> Result<()> {
        self.release(container, RootfsUser::Mount, force).await?;
        self.append_event(container, "unmount");
        Ok(())
    }

    /// Mounts a container's root file system until [`PodHandle::release_rootfs`].
    ///
    /// # Errors
    /// As [`PodHandle::mount`].
    pub async fn lease_rootfs(&self, container: &str) -> Result<LeasedRootfs> {
        // This check comes first: the lock's file must not be made for an unknown container.
        self.view()?.container(container)?;
        let lease = RootfsLease::begin(&self.paths.container(container)?)?;
        Ok(LeasedRootfs {
            path: self.hold(container, RootfsUser::Lease).await?,
            container: container.to_owned(),
            lease,
        })
    }

    /// Releases a lease.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the mount cannot be undone.
    pub async fn release_rootfs(&self, leased: LeasedRootfs) -> Result<()> {
        let LeasedRootfs {
            container, lease, ..
        } = leased;
        drop(lease);
        // A process uses the mount, or it was removed meanwhile.
        ignore_in_use_or_gone(self.release(&container, RootfsUser::Lease, false).await)
    }

    /// Makes the VM, if there is one, see changes of files on the host.
    ///
    /// # Errors
    /// The agent's.
    pub async fn files_changed(&self) -> Result<()> {
        let answered = self.ask(|owner| owner.files_changed(api::Empty::new()));
        answered.await.map(drop)
    }

    async fn hold(&self, container: &str, user: RootfsUser) -> Result<PathBuf> {
        let asked = self.ask(|owner| {
            let request = api::MountRequest {
                container: container.to_owned(),
                visitor: user == RootfsUser::Lease,
                ..Default::default()
            };
            owner.mount(request)
        });
        let held = match asked.await? {
            Ok(answer) => return Ok(answer.path.into()),
            Err(held) => held,
        };
        self.with_files(container, &held, |view, state| {
            let files = view.container(container)?;
            let paths = self.paths.container(container)?;
            rootfs::hold(&files.definition, &paths, None, user, state)
        })
    }

    async fn release(&self, container: &str, user: RootfsUser, force: bool) -> Result<()> {
        let asked = self.ask(|owner| {
            let request = api::UnmountRequest {
                container: container.to_owned(),
                visitor: user == RootfsUser::Lease,
                force,
                ..Default::default()
            };
            owner.unmount(request)
        });
        let held = match asked.await? {
            Ok(_) => return Ok(()),
            Err(held) => held,
        };
        let used = self.with_files(container, &held, |_, state| {
            rootfs::release(&self.paths.container(container)?, user, force, state)
        })?;
        not_mounted(container, used || user == RootfsUser::Lease)
    }

    /// Changes a container's state, if the pod has no owner.
    fn with_files<T>(
        &self,
        container: &str,
        held: &PodLock,
        change: impl FnOnce(&PodView, &mut crate::engine::records::record::ContainerState) -> Result<T>,
    ) -> Result<T> {
        let view = PodView::read_for_change(&self.paths, held)?;
        let before = &view.container(container)?.state;
        let mut state = before.clone();
        let result = change(&view, &mut state)?;
        if state != *before {
            records::write_container(&self.paths.container(container)?, &state, held)?;
        }
        Ok(result)
    }
}
