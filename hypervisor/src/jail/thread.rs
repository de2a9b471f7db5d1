//! Threads of a jailed process, by kind.
//!
//! A thread inherits the capabilities and the seccomp filters of the thread that makes
//! it, and can only lose some. A device's threads are started by the thread that
//! handles the start of its queue, which may be a vCPU. So one thread that keeps all
//! that any kind may need, the spawner, starts all others, and does nothing else.

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
                // A thread that cannot be confined must not run.
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

/// Unit tests of the devices run under their filters too, if `RUST_KATA_TEST_CONFINE`
/// is set: a test of the filters records their system calls.
#[cfg(test)]
fn confine_in_tests(kind: ThreadKind) {
    if std::env::var_os("RUST_KATA_TEST_CONFINE").is_some() {
        seccomp::watch().unwrap();
        confine(kind).unwrap();
    }
}

/// Does `work` in a thread of this kind and waits for it: what a device does with the
/// host's files when it is made belongs to the device's own kind.
pub fn run<T: Send + 'static>(
    kind: ThreadKind,
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = spawn(kind, name, work)?;
    let lost = || io::Error::other(format!("the thread {name} panicked"));
    thread.join().map_err(|_| lost())?
}

/// Starts the spawner with what the calling thread has. From now on the process counts
/// as jailed.
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

/// Takes from the calling thread what its kind does not need.
pub(super) fn confine(kind: ThreadKind) -> Result<(), JailError> {
    if kind != ThreadKind::Fs {
        privileges::drop_all()?;
    }
    seccomp::install(kind).map_err(step("restrict the system calls"))
}
