//! Work on several objects at the same time.

use std::num::NonZero;
use std::thread::available_parallelism;

use futures::stream::{self, StreamExt};

use super::error::CliResult;
use super::progress::with_spinner;

/// How many objects a command acts on at the same time: as with podman, three for each CPU and
/// one more.
fn at_once() -> usize {
    available_parallelism().map_or(1, NonZero::get) * 3 + 1
}

/// Does `works` side by side, and passes each result to `done` as it comes; on a terminal a
/// spinner with `what` is shown meanwhile.
pub(crate) async fn side_by_side<F: Future>(
    what: &str,
    works: impl IntoIterator<Item = F>,
    mut done: impl FnMut(F::Output) -> CliResult<()>,
) -> CliResult<()> {
    let results = stream::iter(works).buffer_unordered(at_once());
    tokio::pin!(results);
    while let Some(result) = with_spinner(what.to_owned(), results.next()).await {
        done(result)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn works_wait_at_the_same_time_and_all_are_done() {
        // One after the other, the first would wait for ever.
        let together = Barrier::new(4);
        let works = (0..8).map(|n| {
            let together = &together;
            async move {
                together.wait().await;
                n
            }
        });
        let mut seen = Vec::new();
        side_by_side("Testing", works, |n| {
            seen.push(n);
            Ok(())
        })
        .await
        .unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
}
