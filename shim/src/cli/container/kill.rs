//! `rust-kata container kill`.

use clap::Args;
use runtime::engine::PodHandle;

use crate::cli::arguments::Signal;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::select::{Container, Groups, Manner};

/// Arguments of `container kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    containers: Vec<String>,

    /// Select all running containers created by rust-kata
    #[arg(long, short, conflicts_with = "containers")]
    all: bool,

    #[command(flatten)]
    signal: Signal,

    /// Signal every process of a container, not only its init
    #[arg(long)]
    all_processes: bool,
}

impl Kill {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        let signal = self.signal.signal as u32;
        let mut managed = Vec::new();
        for wanted in self.containers {
            match failures.check(context.any_container(&wanted)) {
                Some(Container::Managed(..)) => managed.push(wanted),
                Some(Container::Foreign(foreign)) => {
                    let killed = foreign.kill(signal, self.all_processes).await;
                    let outcome = failures.check(killed.map_err(Into::into));
                    for name in failures.check_all(outcome.unwrap_or_default()) {
                        print(&format!("{name}\n"))?;
                    }
                }
                None => {}
            }
        }
        let manner = Manner::SideBySide;
        let which = match self.all {
            true => Groups::all(context, manner, |files| files.state.status.is_running())?,
            false => Groups::named(context, manner, &managed),
        };
        let kill = async |pod: &PodHandle, names: &[String]| {
            pod.kill(names, signal, self.all_processes).await
        };
        let killed = which.each("Killing", kill).await;
        failures.check(killed);
        failures.finish()
    }
}
