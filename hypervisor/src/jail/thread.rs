//! The threads of a jailed process, by kind.
//!
//! A thread inherits the capabilities and the seccomp filters of its creator, and can only lose
//! some. The thread that handles the start of a device's queue, which may be a vCPU, would be
//! the creator of the device's threads. So a separate thread, the spawner, keeps the
//! permissions of all kinds, and starts all other threads.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread::{Builder, JoinHandle};

use super::kind::ThreadKind;
use super::privileges;
use super::seccomp;
use super::{JailError, step};
use crate::sync::lock;

type SpawnJob = Box<dyn FnOnce() + Send>;

/// Set once the process is jailed.
static SPAWNER: OnceLock<Mutex<Sender<SpawnJob>>> = OnceLock::new();

/// Starts a thread of this kind.
pub fn spawn<T: Send + 'static>(
    kind: ThreadKind,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let builder = Builder::new().name(name.into());
    let Some(spawner) = SPAWNER.get() else {
        return builder.spawn(move || {
            if kind == ThreadKind::Fs {
                privileges::keep_capabilities_across_users();
            }
            #[cfg(test)]
            confine_in_tests(kind);
            work()
        });
    };
    let (reply, thread) = channel();
    let job = Box::new(move || {
        let started = builder.spawn(move || {
            if let Err(err) = confine(kind) {
                // An unconfined thread must not run.
                log::error!("{kind} thread: {err}");
                std::process::abort();
            }
            work()
        });
        let _ = reply.send(started);
    });
    let gone = || io::Error::other("the spawner thread is gone");
    let sent = lock(spawner).send(job);
    sent.map_err(|_| gone())?;
    thread.recv().map_err(|_| gone())?
}

/// If `RUST_KATA_TEST_CONFINE` is set, unit tests of the devices run under their filters, too:
/// a test of the filters records their system calls.
#[cfg(test)]
fn confine_in_tests(kind: ThreadKind) {
    if std::env::var_os("RUST_KATA_TEST_CONFINE").is_some() {
        seccomp::watch().unwrap();
        confine(kind).unwrap();
    }
}

/// Runs `work` in a thread of this kind and waits for it: a device that accesses the host's
/// files while it is made needs the permissions of its kind.
pub fn run<T: Send + 'static>(
    kind: ThreadKind,
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = spawn(kind, name, work)?;
    let lost = || io::Error::other(format!("the thread {name} panicked"));
    thread.join().map_err(|_| lost())?
}

/// Starts the spawner with the permissions of the calling thread. From then on the process
/// counts as jailed.
pub(super) fn start_spawner() -> Result<(), JailError> {
    let (sender, jobs) = channel::<SpawnJob>();
    let (answer, confined) = channel();
    Builder::new()
        .name("spawner".into())
        .spawn(move || {
            let confined = seccomp::install(ThreadKind::Spawner);
            let ready = confined.is_ok();
            let _ = answer.send(confined);
            if ready {
                jobs.into_iter().for_each(|job| job());
            }
        })
        .map_err(step("start the spawner"))?;
    confined
        .recv()
        .unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))
        .map_err(step("confine the spawner"))?;
    SPAWNER
        .set(Mutex::new(sender))
        .map_err(|_| step("enter the jail twice")(io::Error::from(io::ErrorKind::AlreadyExists)))
}

/// Drops the permissions of the calling thread that its kind does not need.
pub(super) fn confine(kind: ThreadKind) -> Result<(), JailError> {
    if kind != ThreadKind::Fs {
        privileges::drop_all()?;
    }
    seccomp::install(kind).map_err(step("restrict the system calls"))
}
