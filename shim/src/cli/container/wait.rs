//! `rust-kata container wait`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use runtime::engine::status::ContainerStatus;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
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

/// The exit code of a container that never ran, as podman has it.
const NEVER_RAN: u32 = 0;

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

/// The shortest interval, in place of a shorter one: 0 means to check all the time.
const SHORTEST: Duration = Duration::from_millis(10);

fn interval(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<u64>() {
        Ok(millis) => Duration::from_millis(millis),
        Err(_) => humantime::parse_duration(text).map_err(|e| e.to_string())?,
    };
    Ok(time.max(SHORTEST))
}

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        for wanted in &self.which.containers {
            let code = self.exit_code(context, wanted).await;
            let Some(code) = failures.check(code) else {
                continue;
            };
            // As podman prints it for a container that has not ended.
            let code = code.map_or("-1".into(), |code| code.to_string());
            print(&format!("{code}\n"))?;
        }
        failures.finish()
    }

    async fn exit_code(&self, context: &Context, wanted: &str) -> CliResult<Option<u32>> {
        let states: Vec<_> = self.condition.iter().map(|c| c.status()).collect();
        match context.any_container(wanted)? {
            Container::Managed(pod, name) if states.is_empty() => {
                let status = pod.view()?.container(&name)?.state.status;
                if status == ContainerStatus::Configured {
                    return Ok(Some(NEVER_RAN));
                }
                Ok(Some(pod.wait(&name).await?))
            }
            Container::Managed(pod, name) => {
                let reached = pod.wait_for(&name, &states, self.interval).await?;
                Ok(reached.exit_code.filter(|_| !reached.status.is_live()))
            }
            Container::Foreign(foreign) if states.is_empty() => Ok(Some(foreign.wait().await?)),
            Container::Foreign(foreign) => Err(foreign.refusal().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_times_or_milliseconds() {
        assert_eq!(interval("250").unwrap(), Duration::from_millis(250));
        assert_eq!(interval("2s").unwrap(), Duration::from_secs(2));
        for short in ["0", "0s", "1ms"] {
            assert_eq!(interval(short).unwrap(), SHORTEST, "{short}");
        }
        for (bad, why) in [("soon", "expected number"), ("", "empty")] {
            let said = interval(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
