//! Several pods, by name or all, and the work on each.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::status::Outcome;

use super::Manner;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::progress::with_spinner;
use crate::cli::side_by_side::side_by_side;
use crate::error::Error;

/// One or more pods, or all.
#[derive(Debug, Args)]
pub(crate) struct Pods {
    /// Pods by name, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,

    /// Select all pods
    #[arg(long, short)]
    all: bool,
}

impl Pods {
    /// The pods, each once; for one that is not found, its name and the error.
    pub(crate) fn handles(
        &self,
        context: &Context,
    ) -> CliResult<Vec<Result<PodHandle, (String, Error)>>> {
        if self.all {
            let all = context.engine.pod_names(context.namespace.as_deref())?;
            return Ok(all.into_iter().map(Ok).collect());
        }
        let mut found: Vec<Result<PodHandle, (String, Error)>> = Vec::new();
        for name in &self.pods {
            let pod = context.pod(name).map_err(|e| (name.clone(), e));
            let again = pod.as_ref().is_ok_and(|pod| {
                let mut before = found.iter().flatten();
                before.any(|before| before.paths() == pod.paths())
            });
            if !again {
                found.push(pod);
            }
        }
        Ok(found)
    }

    /// Applies `work` to each pod, and prints the names of those for which it succeeded.
    pub(crate) async fn each(
        &self,
        context: &Context,
        doing: &str,
        manner: Manner,
        work: impl AsyncFn(&PodHandle) -> runtime::Result<Outcome>,
    ) -> CliResult<()> {
        let mut failures = Failures::default();
        let mut pods = Vec::new();
        for pod in self.handles(context)? {
            match pod {
                Ok(pod) => pods.push(pod),
                Err((_, error)) => manner.report_missing(&mut failures, &error),
            }
        }
        let mut finished = |(name, result): (&str, runtime::Result<Outcome>)| match result {
            Ok(outcome) => {
                let failed = !outcome.errors.is_empty();
                failures.check_all(outcome);
                if failed {
                    return Ok(());
                }
                print(&format!("{name}\n"))
            }
            Err(error) => {
                let error = error.into();
                if manner.minds(&error) {
                    failures.report(&error);
                }
                Ok(())
            }
        };
        if manner == Manner::InTurn {
            for pod in &pods {
                let what = format!("{doing} pod {}", pod.name());
                finished((pod.name(), with_spinner(what, work(pod)).await))?;
            }
        } else {
            let names: Vec<&str> = pods.iter().map(PodHandle::name).collect();
            let noun = if names.len() == 1 { "pod" } else { "pods" };
            let what = format!("{doing} {noun} {}", names.join(", "));
            let work = &work;
            let works = pods
                .iter()
                .map(|pod| async move { (pod.name(), work(pod).await) });
            side_by_side(&what, works, finished).await?;
        }
        failures.finish()
    }
}
