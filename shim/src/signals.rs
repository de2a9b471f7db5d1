//! The signals that `shim run` and `rust-kata` pass on to a container.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Context, Result};

const PASSED_ON: [libc::c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// Whether a signal asks a process to end.
pub fn is_fatal(number: libc::c_int) -> bool {
    !matches!(number, libc::SIGWINCH | libc::SIGUSR1 | libc::SIGUSR2)
}

/// The exit code of a process that a signal ended, as a shell has it.
pub fn code_of_signal(number: libc::c_int) -> u8 {
    128 + number as u8
}

/// Signals sent to this process, in order of arrival.
pub struct Signals(mpsc::UnboundedReceiver<libc::c_int>);

impl Signals {
    /// Catches these signals: from now on they do not end the process.
    pub fn watch() -> Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for number in PASSED_ON {
            let mut stream = signal(SignalKind::from_raw(number)).doing("watch for signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(number).is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    /// Returns the next signal.
    pub async fn next(&mut self) -> libc::c_int {
        match self.0.recv().await {
            Some(number) => number,
            // The channel closes only when the runtime ends, and this task with it.
            None => std::future::pending().await,
        }
    }

    /// Returns the next signal that asks the process to end.
    pub async fn next_fatal(&mut self) -> libc::c_int {
        loop {
            let number = self.next().await;
            if is_fatal(number) {
                return number;
            }
        }
    }
}
