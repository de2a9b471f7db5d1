//! `rust-kata container wait`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use runtime::engine::status::ContainerStatus;

use super::container::Containers;
use super::error::CliResult;
use super::output::print;
use super::{Context, Either};

/// `rust-kata container wait`.
#[derive(Debug, Args)]
pub(super) struct Wait {
    #[command(flatten)]
    which: Containers,

    /// The state to wait for; any of them, if several are named [default: its end]
    #[arg(long, value_enum, value_name = "STATE")]
    condition: Vec<Condition>,

    /// With --condition: look at least that often, beside whenever something changes; a number
    /// alone is of milliseconds
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

/// A state, with podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Condition {
    #[value(alias = "configured")]
    Created,
    Initialized,
    Running,
    Paused,
    Stopping,
    #[value(alias = "stopped")]
    Exited,
}

impl Condition {
    fn status(self) -> ContainerStatus {
        match self {
            Self::Created => ContainerStatus::Configured,
            Self::Initialized => ContainerStatus::Initialized,
            Self::Running => ContainerStatus::Running,
            Self::Paused => ContainerStatus::Paused,
            Self::Stopping => ContainerStatus::Stopping,
            Self::Exited => ContainerStatus::Exited,
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<u64>() {
        Ok(millis) => Duration::from_millis(millis),
        Err(_) => humantime::parse_duration(text).map_err(|e| e.to_string())?,
    };
    Some(time)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "it is more than nothing, as 250ms".into())
}

impl Wait {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let wanted: Vec<_> = self.condition.iter().map(|c| c.status()).collect();
        for name in &self.which.containers {
            let code = match context.either(name)? {
                Either::Ours(pod, name) if wanted.is_empty() => Some(pod.wait(&name).await?),
                Either::Ours(pod, name) => {
                    let reached = pod.wait_for(&name, &wanted, self.interval).await?;
                    reached.exit_code.filter(|_| !reached.status.is_live())
                }
                Either::Theirs(theirs) if wanted.is_empty() => Some(theirs.wait().await?),
                Either::Theirs(theirs) => {
                    return Err(theirs.pod.refusal(&theirs.container).into());
                }
            };
            // As podman has it for one that has not ended.
            let code = code.map_or("-1".into(), |code| code.to_string());
            print(&format!("{code}\n"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_times_or_milliseconds() {
        assert_eq!(interval("250").unwrap(), Duration::from_millis(250));
        assert_eq!(interval("2s").unwrap(), Duration::from_secs(2));
        assert!(interval("0").is_err() && interval("soon").is_err());
    }
}
