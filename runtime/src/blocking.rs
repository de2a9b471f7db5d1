//! File work within asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::{Error, Result};

/// Runs work that may wait for a disk, or for a lock that another process holds. The calling
/// task waits; other tasks of the worker go on, so a pod's owner still answers while its state
/// files are slow.
///
/// The order of writes, and intent before effect, are kept: the work runs now, in place.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Without a runtime, or in a single-threaded one, no other worker could take over.
        _ => work(),
    }
}

/// Runs work on a thread of its own: work that takes long, that must not be in the way of
/// the task's other futures, or that goes on when the caller does not. `task` names it, in the
/// gerund.
///
/// # Errors
/// [`Error::TaskFailed`] if it panics.
pub(crate) async fn on_thread<T: Send + 'static>(
    task: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Error::task(task))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fs2::FileExt;

    use super::on_thread;
    use crate::error::Error;
    use crate::state_dir::lock::{self, Guarded, PodLock};
    use crate::state_dir::paths::RunPaths;

    #[tokio::test]
    async fn work_that_panics_is_an_error_that_names_it() {
        assert_eq!(on_thread("counting", || 7).await.unwrap(), 7);
        let error = on_thread::<()>("counting", || panic!("no numbers")).await;
        let failed = matches!(&error, Err(Error::TaskFailed { task, .. }) if *task == "counting");
        assert!(failed, "{error:?}");
    }

    /// This process was stopped while it held the pod's lock.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_that_is_waited_for_holds_up_no_other_task() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunPaths::new(root.path(), "ns", "p").unwrap();
        std::fs::create_dir_all(dir.path()).unwrap();
        lock::create(&dir).unwrap();
        let held = std::fs::File::open(Guarded::lock(&dir)).unwrap();
        FileExt::lock_exclusive(&held).unwrap();

        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let dir = dir.clone();
                tokio::spawn(async move { PodLock::exclusive(&dir).map(drop) })
            })
            .collect();
        let others = (0..100).map(|_| tokio::spawn(tokio::time::sleep(Duration::from_millis(1))));
        let others = futures::future::join_all(others);
        tokio::time::timeout(Duration::from_secs(10), others)
            .await
            .expect("the workers go on");

        FileExt::unlock(&held).unwrap();
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }
}
