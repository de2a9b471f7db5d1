//! File work on separate threads, since the agent has one thread for all calls.

use std::io;

use crate::error::{Context, Result};

/// Runs `work` on a thread of its own; `what` names it in the error after a panic.
///
/// # Errors
/// The errors of `work`; [`crate::error::Error::Io`] if it did not complete.
pub async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).what(what)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_an_error_that_names_it() {
        assert_eq!(blocking("count", || Ok(7)).await.unwrap(), 7);
        let error = blocking::<()>("count", || panic!("no numbers")).await;
        assert!(error.unwrap_err().to_string().starts_with("count: "));
    }
}
