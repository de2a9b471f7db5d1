//! A thread that serves queues until it is told to stop.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::jail::{self, ThreadKind};

/// A running thread with a stop event. Dropping it stops and joins the thread.
pub(crate) struct Worker<T> {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread. `work` must return soon after its event becomes readable.
    pub fn spawn(
        kind: ThreadKind,
        name: &str,
        work: impl FnOnce(&EventFd) -> T + Send + 'static,
    ) -> io::Result<Worker<T>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let stop = Arc::new(EventFd::from_flags(flags)?);
        let event = Arc::clone(&stop);
        let thread = jail::spawn(kind, name, move || work(&event))?;
        Ok(Worker {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops the thread and returns its result; `None` if it panicked.
    pub fn stop(mut self) -> Option<T> {
        self.join()
    }
}

impl<T> Worker<T> {
    fn join(&mut self) -> Option<T> {
        // An event counter that is full is readable as well.
        let _ = self.stop.write(1);
        self.thread.take()?.join().ok()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.join();
    }
}
