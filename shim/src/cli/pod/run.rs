//! `rust-kata pod run`.

use clap::Args;
use runtime::engine::RemoveOptions;

use super::create::Create;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::report_errors;
use crate::cli::interrupt::interruptible;
use crate::cli::output::print;
use crate::cli::progress::with_spinner;

/// Arguments of `pod run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pod: Create,
}

impl Run {
    /// Creates and starts the pod. If it does not start, or a signal interrupts that, it is
    /// removed.
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        let pod = self.pod.create(context)?;
        let doing = format!("Starting pod {}", pod.name());
        let started = interruptible(with_spinner(doing, pod.start(&[], true))).await?;
        let failed = match started {
            Ok(started) => match started.map_err(Into::into).and_then(report_errors) {
                Ok(_) => return print(&format!("{}\n", pod.name())).map(|()| 0),
                Err(error) => Err(error),
            },
            Err(code) => Ok(code),
        };
        let how = RemoveOptions {
            seconds: Some(0),
            ..RemoveOptions::FORCE
        };
        match interruptible(pod.remove(how)).await? {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => crate::terminal::say(&error.to_string()),
            Err(code) => return Ok(code),
        }
        failed
    }
}
