//! Signals of ours, forwarded to the process that we are attached to.

use std::collections::VecDeque;

use futures::future::LocalBoxFuture;
use runtime::ErrorKind;
use runtime::engine::PodHandle;
use runtime::engine::status::ContainerStatus;

use crate::cli::select::Container;
use crate::signals::{code_of_signal, is_fatal};

/// The process that gets our signals.
#[derive(Clone, Copy)]
pub(super) enum Receiver<'a> {
    /// The init of a container. As with podman, it may handle any number of signals.
    Init(&'a PodHandle, &'a str),
    /// A further process in a container. podman ends without it, and leaves it running; here it
    /// gets the first signal, and the second one ends the client.
    Exec(&'a Container),
}

impl Receiver<'_> {
    /// Sends a signal; false if the process cannot take it now.
    async fn signal(self, exec: &str, number: i32) -> runtime::Result<bool> {
        let signal = number as u32;
        match self {
            Self::Init(pod, container) => {
                let status = pod.view()?.container(container)?.state.status;
                // It would get the signal only when it is thawed.
                if status == ContainerStatus::Paused && is_fatal(number) {
                    return Ok(false);
                }
                let outcome = pod.kill(&[container.to_owned()], signal, false).await?;
                outcome.errors.into_values().next().map_or(Ok(()), Err)?;
            }
            Self::Exec(Container::Managed(pod, container)) => {
                pod.signal_exec(container, exec, signal).await?;
            }
            Self::Exec(Container::Foreign(foreign)) => foreign.signal_exec(exec, signal).await?,
        }
        Ok(true)
    }
}

/// The signals, in order, each passed on when the one before has arrived.
pub(super) struct Forwarding<'a> {
    to: Receiver<'a>,
    waiting: VecDeque<i32>,
    current: Option<(i32, LocalBoxFuture<'a, runtime::Result<bool>>)>,
    /// Whether a signal that asks for the end was passed on, or is about to be.
    asked: bool,
}

impl<'a> Forwarding<'a> {
    pub(super) fn new(to: Receiver<'a>) -> Self {
        Self {
            to,
            waiting: VecDeque::new(),
            current: None,
            asked: false,
        }
    }

    /// Takes a signal to pass on; or returns the exit code of the client, which the signal ends.
    pub(super) fn take(&mut self, number: i32) -> Option<u8> {
        if is_fatal(number) {
            let stuck = self.current.is_some() || !self.waiting.is_empty();
            let again = match self.to {
                Receiver::Exec(_) => self.asked,
                Receiver::Init(..) => self.asked && stuck,
            };
            if again {
                return Some(code_of_signal(number));
            }
            self.asked = true;
        }
        self.waiting.push_back(number);
        None
    }

    /// Passes signals on. Resolves with the exit code of the client if that fails: as with
    /// podman, the signal ends the client then. Cancel-safe.
    pub(super) async fn next(&mut self, exec: &str) -> Option<u8> {
        loop {
            let (number, passing) = match &mut self.current {
                Some(current) => current,
                None => {
                    let Some(number) = self.waiting.pop_front() else {
                        return std::future::pending().await;
                    };
                    let (to, exec) = (self.to, exec.to_owned());
                    let passing = Box::pin(async move { to.signal(&exec, number).await });
                    self.current.insert((number, passing))
                }
            };
            let (number, passed) = (*number, passing.await);
            self.current = None;
            match passed {
                Ok(true) => {}
                Ok(false) => return Some(code_of_signal(number)),
                // It has ended, and its exit code is on the way to us.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::FailedPrecondition
                    ) => {}
                Err(error) => {
                    log::warn!("Signal {number} was not passed on: {error}");
                    return Some(code_of_signal(number));
                }
            }
        }
    }
}
