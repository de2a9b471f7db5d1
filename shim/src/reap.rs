//! Cleaning up after pods whose owner process has ended.

use runtime::{Config, Runtime};

use crate::error::{Context, Result};

/// Undoes what killed owners left. What cannot be undone is logged and left.
pub fn reap_abandoned(config: Config, namespace: &str) -> Result<()> {
    for pod in Runtime::new(config.clone())?.abandoned(namespace)? {
        match reap(config.clone(), namespace, &pod) {
            Ok(()) => log::info!("Removed what was left of pod {pod:?}"),
            Err(error) => log::warn!("Pod {pod:?} of a dead process is still there: {error}"),
        }
    }
    Ok(())
}

/// Undoes what a failed or interrupted creation left. Called once this process no longer holds
/// anything of the pod.
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
