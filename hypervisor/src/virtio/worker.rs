//! Threads that serve queues until they are stopped.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

use crate::event::EventFd;
use crate::jail::{self, ThreadKind};

/// Waits for events for at most `timeout`. A signal ends the wait without events.
pub(crate) fn wait<'e>(
    epoll: &Epoll,
    events: &'e mut [EpollEvent],
    timeout: EpollTimeout,
) -> io::Result<&'e [EpollEvent]> {
    match epoll.wait(events, timeout) {
        Ok(count) => Ok(&events[..count]),
        Err(Errno::EINTR) => Ok(&[]),
        Err(err) => Err(err.into()),
    }
}

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
        let stop = Arc::new(EventFd::new()?);
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

/// What a thread works on, with the thread while it runs: to change the one, the other is
/// stopped and started again.
pub(crate) enum Restartable<T> {
    /// No thread runs.
    Idle(T),
    /// The thread works on it.
    Running(Worker<T>),
    /// The thread panicked or could not be started.
    Lost,
}

impl<T: Send + 'static> Restartable<T> {
    /// Stops the thread, if one runs, and takes what it works on; `None` if that is lost.
    pub fn stop(&mut self) -> Option<T> {
        match std::mem::replace(self, Restartable::Lost) {
            Restartable::Idle(state) => Some(state),
            Restartable::Running(worker) => worker.stop(),
            Restartable::Lost => None,
        }
    }

    /// Starts a thread that works on `state`.
    pub fn start(
        &mut self,
        kind: ThreadKind,
        name: &str,
        mut state: T,
        work: impl FnOnce(&mut T, &EventFd) + Send + 'static,
    ) -> io::Result<()> {
        let worker = Worker::spawn(kind, name, move |stop| {
            work(&mut state, stop);
            state
        })?;
        *self = Restartable::Running(worker);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{EpollCreateFlags, EpollFlags};
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    /// Waits for the stop, and tells that it came.
    fn waits(stop: &EventFd, ended: &Sender<()>) {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 7);
        epoll.add(stop, event).unwrap();
        let mut events = [EpollEvent::empty(); 4];
        let found = wait(&epoll, &mut events, EpollTimeout::from(20_000u16)).unwrap();
        assert_eq!(found.iter().map(EpollEvent::data).collect::<Vec<_>>(), [7]);
        let _ = ended.send(());
    }

    #[test]
    fn a_worker_ends_when_it_is_stopped_or_dropped() {
        for dropped in [false, true] {
            let (sender, ended) = channel();
            let worker = Worker::spawn(ThreadKind::Simple, "test", move |stop| {
                waits(stop, &sender);
                5
            });
            let worker = worker.unwrap();
            match dropped {
                true => drop(worker),
                false => assert_eq!(worker.stop(), Some(5)),
            }
            // It was joined: the message is there.
            assert_eq!(ended.try_recv(), Ok(()));
        }
        let lost = Worker::spawn(ThreadKind::Simple, "test", |_| panic!("as a test wants it"));
        assert!(lost.map(Worker::<()>::stop).unwrap().is_none());
    }

    #[test]
    fn what_a_thread_works_on_comes_back_from_it() {
        let mut slot = Restartable::Idle(vec![1]);
        let state = slot.stop().unwrap();
        // Until it is started again there is nothing.
        assert_eq!(slot.stop(), None);
        for number in [2, 3] {
            let state = match number {
                2 => state.clone(),
                _ => slot.stop().unwrap(),
            };
            let (sender, _ended) = channel();
            let work = move |state: &mut Vec<i32>, stop: &EventFd| {
                state.push(number);
                waits(stop, &sender);
            };
            slot.start(ThreadKind::Simple, "test", state, work).unwrap();
        }
        assert_eq!(slot.stop(), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_wait_ends_after_its_time_without_events() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut events = [EpollEvent::empty(); 4];
        let limit = EpollTimeout::try_from(Duration::from_millis(1)).unwrap();
        assert!(wait(&epoll, &mut events, limit).unwrap().is_empty());
    }
}
