//! Root file systems of containers for those who are on the host: to look around
//! (`mount`), or to copy (`cp`, `export`).

use std::path::{Path, PathBuf};

use protos::management as api;

use super::PodHandle;
use crate::engine::records;
use crate::engine::records::view::PodView;
use crate::engine::rootfs::not_mounted;
use crate::engine::rootfs::{self, User, Visit};
use crate::error::{ErrorKind, Result};
use crate::state_dir::lock::PodLock;

/// A container's root file system, for as long as a process copies.
#[derive(Debug)]
pub struct Visited {
    path: PathBuf,
    container: String,
    visit: Visit,
}

impl Visited {
    /// Where it is. Names in it are the container's: none may be followed
    /// without its root.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl PodHandle {
    /// Mounts a container's root file system on the host, until
    /// [`PodHandle::unmount`] was called as often. Where it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] if its image is damaged.
    pub async fn mount(&self, container: &str) -> Result<PathBuf> {
        self.hold(container, User::Mount).await
    }

    /// Undoes one [`PodHandle::mount`], or all with `force`.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is not mounted; [`Error::Busy`] if the last
    /// one is undone while a process uses what is mounted.
    pub async fn unmount(&self, container: &str, force: bool) -> Result<()> {
        self.release(container, User::Mount, force).await
    }

    /// A container's root file system, mounted for as long as this process
    /// copies.
    ///
    /// # Errors
    /// As [`PodHandle::mount`].
    pub async fn visit(&self, container: &str) -> Result<Visited> {
        // Found first: the lock's file must not be made for none.
        self.view()?.container(container)?;
        let visit = Visit::begin(&self.home.container(container)?)?;
        Ok(Visited {
            path: self.hold(container, User::Visitor).await?,
            container: container.to_owned(),
            visit,
        })
    }

    /// Ends a visit.
    ///
    /// # Errors
    /// [`Error::Io`] if the mount cannot be undone.
    pub async fn end_visit(&self, visited: Visited) -> Result<()> {
        let Visited {
            container, visit, ..
        } = visited;
        drop(visit);
        match self.release(&container, User::Visitor, false).await {
            // Somebody looks around in it, or it was removed meanwhile.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::FailedPrecondition | ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Has the VM, if there is one, see what was changed in files on the host.
    ///
    /// # Errors
    /// The agent's.
    pub async fn files_changed(&self) -> Result<()> {
        let told = self.ask(async |owner| owner.files_changed(api::Empty::new()).await);
        told.await.map(drop)
    }

    async fn hold(&self, container: &str, user: User) -> Result<PathBuf> {
        let asked = self.ask(async |owner| {
            let request = api::MountRequest {
                container: container.to_owned(),
                visitor: user == User::Visitor,
                ..Default::default()
            };
            owner.mount(request).await
        });
        let held = match asked.await? {
            Ok(answer) => return Ok(answer.path.into()),
            Err(held) => held,
        };
        self.with_files(container, &held, |view, state| {
            let files = view.container(container)?;
            let home = self.home.container(container)?;
            rootfs::hold(&files.definition, &home, None, user, state)
        })
    }

    async fn release(&self, container: &str, user: User, force: bool) -> Result<()> {
        let asked = self.ask(async |owner| {
            let request = api::UnmountRequest {
                container: container.to_owned(),
                visitor: user == User::Visitor,
                force,
                ..Default::default()
            };
            owner.unmount(request).await
        });
        let held = match asked.await? {
            Ok(_) => return Ok(()),
            Err(held) => held,
        };
        let used = self.with_files(container, &held, |_, state| {
            rootfs::release(&self.home.container(container)?, user, force, state)
        })?;
        not_mounted(container, used || user == User::Visitor)
    }

    /// Changes a container's state where nobody owns the pod.
    fn with_files<T>(
        &self,
        container: &str,
        held: &PodLock,
        change: impl FnOnce(&PodView, &mut crate::engine::records::record::ContainerState) -> Result<T>,
    ) -> Result<T> {
        let mut view = PodView::read_locked(&self.home, held)?;
        view.settle(held)?;
        let before = &view.container(container)?.state;
        let mut state = before.clone();
        let result = change(&view, &mut state)?;
        if state != *before {
            records::write_container(&self.home.container(container)?, &state, held)?;
        }
        Ok(result)
    }
}
