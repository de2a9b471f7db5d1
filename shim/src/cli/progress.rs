//! A spinner on the terminal for operations that take more than a second.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Operations that are done within this time get no spinner.
const SOON: Duration = Duration::from_secs(1);

/// The time between two frames of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Awaits `work`; on a terminal a spinner with `what` is shown from the first second until
/// it is done.
pub(crate) async fn with_spinner<T>(what: String, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(SOON) => {}
    }
    // indicatif shows nothing if stderr is not a terminal.
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
