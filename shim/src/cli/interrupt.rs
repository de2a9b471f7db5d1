//! Work that a signal to this program interrupts.

use super::error::CliResult;
use crate::signals::{Signals, code_of_signal};

/// Awaits `work`. A signal that asks for the end drops it, and is returned as an exit code: the
/// caller undoes what is half done.
pub(crate) async fn interruptible<T>(work: impl Future<Output = T>) -> CliResult<Result<T, u8>> {
    let mut signals = Signals::watch()?;
    Ok(tokio::select! {
        done = work => Ok(done),
        number = signals.next_fatal() => Err(code_of_signal(number)),
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_signal_ends_the_work_with_its_code() {
        assert_eq!(interruptible(ready(7)).await.unwrap(), Ok(7));
        let interrupted = interruptible(async {
            // The handler is there: the signal does not end this process.
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGQUIT).unwrap();
            pending::<()>().await;
        });
        assert_eq!(interrupted.await.unwrap(), Err(131));
    }
}
