//! `rust-kata container wait`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use runtime::engine::status::ContainerStatus;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::select::{Container, Containers};

/// Arguments of `container wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    which: Containers,

    /// State to wait for; if given several times, any of them [default: exited]
    #[arg(long, value_enum, value_name = "STATE")]
    condition: Vec<Condition>,

    /// With --condition: longest time between two checks, as 250ms; without a unit: milliseconds
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

/// A state, by podman's name.
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
        .ok_or_else(|| "expected more than zero, such as 250ms".into())
}

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let wanted: Vec<_> = self.condition.iter().map(|c| c.status()).collect();
        for name in &self.which.containers {
            let code = match context.any_container(name)? {
                Container::Managed(pod, name) if wanted.is_empty() => Some(pod.wait(&name).await?),
                Container::Managed(pod, name) => {
                    let reached = pod.wait_for(&name, &wanted, self.interval).await?;
                    reached.exit_code.filter(|_| !reached.status.is_live())
                }
                Container::Foreign(foreign) if wanted.is_empty() => Some(foreign.wait().await?),
                Container::Foreign(foreign) => {
                    return Err(foreign.refusal().into());
                }
            };
            // As podman prints it for a container that has not ended.
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
        for (bad, why) in [
            ("0", "more than zero"),
            ("0s", "more than zero"),
            ("soon", "expected number"),
            ("", "empty"),
        ] {
            let said = interval(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
