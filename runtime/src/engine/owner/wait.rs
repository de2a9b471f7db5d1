//! Waiting for the end of a container, or of a further process of it.

use std::sync::Arc;

use super::{Owner, Tracked};
use crate::error::{Error, Result};

impl Owner {
    /// Waits until a container has ended; answers at once if it has. One that never ran
    /// has not.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when it is removed meanwhile.
    pub(super) async fn wait_for(&self, name: &str) -> Result<crate::Exit> {
        self.end_of(&self.tracked(name)?, None).await
    }

    /// The end of the container that has the name now, or of a further process of it: it
    /// is known even if that is removed before it is asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`], at once if there is no such container.
    pub fn watch_end(
        self: &Arc<Self>,
        name: &str,
        exec: Option<&str>,
    ) -> Result<impl Future<Output = Result<crate::Exit>> + Send + use<>> {
        let container = self.tracked(name)?;
        let (owner, exec) = (self.clone(), exec.map(str::to_owned));
        Ok(async move { owner.end_of(&container, exec.as_deref()).await })
    }

    async fn end_of(&self, container: &Arc<Tracked>, exec: Option<&str>) -> Result<crate::Exit> {
        let mut state = container.state.subscribe();
        let missing = || Error::not_found("exec", exec.unwrap_or_default());
        loop {
            let now = state.borrow_and_update().clone();
            let ended = match exec {
                None => now.exit_code.zip(now.finished),
                Some(exec) => {
                    let session = now.execs.get(exec).ok_or_else(missing)?;
                    session.exit_code.zip(session.finished)
                }
            };
            if let Some((status, at)) = ended
                && !(exec.is_none() && now.status.is_live())
            {
                return Ok(crate::Exit { status, at });
            }
            // Checked last: a container that is removed as it ends has ended, too.
            if !self.has(container) {
                return Err(Error::not_found("container", container.name()));
            }
            // This cannot fail: the sender lives in `container`.
            let _ = state.changed().await;
        }
    }
}
