//! The only thread that forks.
//!
//! `PR_SET_PDEATHSIG` takes effect when the *thread* that forked ends, not the process
//! (prctl(2)). An async runtime may end its worker threads, so every process of a VM is started
//! from this thread, which lives as long as the program.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;

use tokio::sync::oneshot;

type ForkJob = Box<dyn FnOnce() + Send>;

static SPAWNER: OnceLock<Mutex<Sender<ForkJob>>> = OnceLock::new();

/// Starts `command` from the spawner thread.
pub async fn spawn(mut command: Command) -> io::Result<Child> {
    fork(
        move || command.spawn(),
        |mut orphan| {
            let _ = orphan.kill();
            let _ = orphan.wait();
        },
    )
    .await
}

/// Runs `start` in the spawner thread. If the caller was dropped meanwhile, `discard` must end
/// the process.
pub(super) async fn fork<T: Send + 'static>(
    start: impl FnOnce() -> io::Result<T> + Send + 'static,
    discard: impl FnOnce(T) + Send + 'static,
) -> io::Result<T> {
    let (reply, child) = oneshot::channel();
    let gone = || io::Error::other("the spawner thread is gone");
    let job = move || {
        if let Err(Ok(orphan)) = reply.send(start()) {
            discard(orphan);
        }
    };
    spawner()?
        .lock()
        .map_err(|_| gone())?
        .send(Box::new(job))
        .map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn spawner() -> io::Result<&'static Mutex<Sender<ForkJob>>> {
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, jobs) = channel::<ForkJob>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()))?;
    // After a race of two threads, the unused spawner ends with its channel.
    Ok(SPAWNER.get_or_init(|| Mutex::new(sender)))
}
