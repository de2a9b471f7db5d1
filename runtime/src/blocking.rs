//! File work in the midst of asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does what may wait for a disk, or for a lock that another process holds. A task
/// waits for it; the worker that the task is on goes on with others, so that a
/// pod's owner answers whatever its state files are waited for.
///
/// The order of writes, and intent before effect, stay as they are written down:
/// nothing is done later or elsewhere.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Without a runtime, and in one of a single thread, there is nobody else.
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fs2::FileExt;

    use crate::state_dir::lock::{self, Guarded, PodLock};
    use crate::state_dir::paths::RunPaths;

    /// A process that was stopped while it held the pod's lock.
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
