//! The one thread that forks.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process
//! (prctl(2)). Worker threads of an async runtime come and go, so every process of
//! a VM is started from this thread, which lives as long as the program.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;

use tokio::sync::oneshot;

struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

/// Starts `command` from the spawner thread.
pub async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, child) = oneshot::channel();
    let gone = || io::Error::other("the spawner thread is gone");
    spawner()?
        .lock()
        .map_err(|_| gone())?
        .send(Job { command, reply })
        .map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn spawner() -> io::Result<&'static Mutex<Sender<Job>>> {
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, jobs) = channel::<Job>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for mut job in jobs {
                // A reply that nobody waits for means that the caller was dropped:
                // the process must not be left behind.
                if let Err(Ok(mut orphan)) = job.reply.send(job.command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        })?;
    // Of two threads that race here one loses, and its spawner ends with its channel.
    Ok(SPAWNER.get_or_init(|| Mutex::new(sender)))
}
