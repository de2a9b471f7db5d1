//! Telling a person that something is under way, once it takes its time.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nobody wonders for so long.
const SOON: Duration = Duration::from_secs(1);

/// Between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Does something; on a terminal what it is is shown while it takes more than a
/// second, and gone when it is done.
pub(super) async fn patiently<T>(what: String, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(SOON) => {}
    }
    // indicatif shows nothing where stderr is no terminal.
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.set_message(what);
    spinner.set_elapsed(SOON);
    spinner.enable_steady_tick(TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}
