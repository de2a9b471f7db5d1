//! What a process that owned a pod does last.

use runtime::{Config, Runtime};

use crate::error::{Context, Result};

/// Undoes what a failed or interrupted creation left, once nothing of this
/// process holds the pod any more.
pub fn reap(config: Config, namespace: &str, pod: &str) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start the runtime's thread")?;
    tokio.block_on(async {
        let runtime = Runtime::new(config)?;
        runtime.reap(namespace, pod, false).await?;
        Ok(())
    })
}
