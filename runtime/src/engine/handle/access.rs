//! Access to a pod: through its owner, which is asked, started, or waited for while it
//! exits; or without an owner to its files, under the pod's lock.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::PodHandle;
use super::client::OwnerClient;
use super::spawn::start_owner;
use crate::blocking::on_thread;
use crate::engine::records;
use crate::engine::wire::attach;
use crate::error::{Context, Error, OwnerError, Result};
use crate::state_dir::lock::PodLock;

/// How many ending owners in a row are tolerated before giving up.
pub(in crate::engine) const TRIES: usize = 20;

/// How long an owner that takes no more calls may take to end.
const LEAVING: Duration = Duration::from_secs(20);

/// The interval at which a waiter checks whether another owner answers.
const NEXT: Duration = Duration::from_secs(1);

/// After so long a check is made that the process that holds the lock is not stopped.
const STOPPED: Duration = Duration::from_secs(2);

/// The way to change a pod.
pub(in crate::engine) enum Access {
    /// Through its living owner.
    Owner(OwnerClient),
    /// To its files, while this lock is held: the pod has no owner.
    Files(PodLock),
}

impl PodHandle {
    /// Connects to its owner, if it has one.
    ///
    /// # Errors
    /// [`OwnerError::NoAnswer`] if the owner lives and does not answer.
    pub(in crate::engine) async fn owner(&self) -> Result<Option<OwnerClient>> {
        Ok(match self.access().await? {
            Access::Owner(owner) => Some(owner),
            Access::Files(_) => None,
        })
    }

    /// Connects to its owner, and starts one if there is none.
    ///
    /// # Errors
    /// The owner's reason for not serving.
    pub(in crate::engine) async fn ensure_owner(&self) -> Result<OwnerClient> {
        for _ in 0..TRIES {
            if let Access::Owner(owner) = self.access().await? {
                return Ok(owner);
            }
            let engine = self.engine.clone();
            let paths = self.paths.clone();
            on_thread("starting an owner", move || start_owner(&engine, &paths)).await??;
        }
        Err(self.owner_keeps_exiting())
    }

    /// Sends a request to the owner, again if the owner ends meanwhile: the request must be
    /// safe to repeat. Without an owner, returns the lock under which the files may be changed.
    pub(in crate::engine) async fn ask<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(OwnerClient) -> F,
    ) -> Result<std::result::Result<T, PodLock>> {
        for _ in 0..TRIES {
            match self.access().await? {
                Access::Files(held) => return Ok(Err(held)),
                Access::Owner(owner) => match call(owner).await {
                    Err(Error::OwnerGone(_) | Error::OwnerLeaving) => self.owner_ended().await?,
                    other => return other.map(Ok),
                },
            }
        }
        Err(self.owner_keeps_exiting())
    }

    /// As [`PodHandle::ask`], but starts an owner if there is none.
    pub(in crate::engine) async fn command<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(OwnerClient) -> F,
    ) -> Result<T> {
        for _ in 0..TRIES {
            let owner = self.ensure_owner().await?;
            match call(owner).await {
                Err(Error::OwnerGone(_) | Error::OwnerLeaving) => self.owner_ended().await?,
                other => return other,
            }
        }
        Err(self.owner_keeps_exiting())
    }

    /// Waits until an ending owner has gone, or another one is there.
    ///
    /// # Errors
    /// [`OwnerError::NoAnswer`] if it does not end.
    pub(in crate::engine) async fn owner_ended(&self) -> Result<()> {
        let paths = self.paths.clone();
        let wait = move || crate::state_dir::lock::wait_for_owner(&paths);
        let mut waiting = pin!(on_thread("waiting for an owner", wait));
        let end = Instant::now() + LEAVING;
        while Instant::now() < end {
            if let Ok(left) = tokio::time::timeout(NEXT, &mut waiting).await {
                return left?;
            }
            // On a busy machine the lock may have passed to another owner meanwhile, which is
            // not ending.
            let address = self.engine.owner_address(&self.paths);
            if OwnerClient::connect(&address).await.is_some() {
                return Ok(());
            }
        }
        let pod = self.name().to_owned();
        Err(OwnerError::NoAnswer { pod }.into())
    }

    pub(in crate::engine) fn owner_keeps_exiting(&self) -> Error {
        let pod = self.name().to_owned();
        OwnerError::KeepsExiting { pod }.into()
    }

    /// Connects to the owner for the streams of a process. Without an owner returns `None`,
    /// unless `start`. The owner may end before it answers.
    ///
    /// # Errors
    /// Those of [`PodHandle::owner`] or [`PodHandle::ensure_owner`].
    pub(in crate::engine) async fn attachment(&self, start: bool) -> Result<Option<UnixStream>> {
        let address = attach::address_of(&self.engine.owner_address(&self.paths));
        for _ in 0..TRIES {
            if start {
                self.ensure_owner().await?;
            } else if self.owner().await?.is_none() {
                return Ok(None);
            }
            match UnixStream::connect(&address).await {
                // The owner is ending.
                Err(e) if matches!(e.kind(), NotFound | ConnectionRefused) => {
                    self.owner_ended().await?;
                }
                other => return other.map(Some).on("connect to", &address),
            }
        }
        Err(self.owner_keeps_exiting())
    }

    /// The current way to change the pod.
    pub(in crate::engine) async fn access(&self) -> Result<Access> {
        let address = self.engine.owner_address(&self.paths);
        for _ in 0..TRIES {
            let held = self.locked().await?;
            if crate::state_dir::lock::OwnerLock::holder_unlocked(&self.paths)?.is_none() {
                return Ok(Access::Files(held));
            }
            drop(held);
            // A starting owner listens before it takes the lock. This holder does not listen
            // any more: it has removed its socket and will release the lock.
            if let Some(client) = OwnerClient::connect(&address).await {
                return Ok(Access::Owner(client));
            }
            self.owner_ended().await?;
        }
        Err(self.owner_keeps_exiting())
    }

    /// Takes the pod's lock, for changes of files. Other holders only work on files, so a
    /// holder that keeps the lock for long was stopped.
    pub(in crate::engine) async fn locked(&self) -> Result<PodLock> {
        let paths = self.paths.clone();
        let take = move || PodLock::exclusive(&paths);
        let mut waiting = pin!(on_thread("waiting for a lock", take));
        loop {
            if let Ok(locked) = tokio::time::timeout(STOPPED, &mut waiting).await {
                let held = locked?.map_err(|e| records::explain(&self.paths, e))?;
                // A damaged pod is removed by its name.
                if let Some(id) = records::id_of(&self.paths) {
                    self.check_same(&id)?;
                }
                return Ok(held);
            }
            if let Some(pid) = crate::state_dir::lock::stopped_holder(&self.paths)? {
                let pod = self.name().to_owned();
                return Err(OwnerError::Stopped { pod, pid }.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    use fs2::FileExt;

    use crate::engine::Engine;
    use crate::engine::records::definition::PodDefinition;
    use crate::state_dir::lock::Guarded;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_an_owner_to_go_sees_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::below(dir.path());
        let pod = engine.create_pod(PodDefinition::new("local", "p")).unwrap();
        // The lock passes from holder to holder while the waiter does not run.
        let lock = File::create(pod.paths().owner()).unwrap();
        lock.lock_exclusive().unwrap();
        let address = engine.owner_address(pod.paths());
        std::fs::create_dir_all(address.parent().unwrap()).unwrap();
        let _next = UnixListener::bind(&address).unwrap();

        pod.owner_ended().await.unwrap();

        // Also if it is free.
        drop(lock);
        pod.owner_ended().await.unwrap();
    }
}
