//! Several containers, by name or all, and the work on them pod by pod.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::records::ContainerFiles;
use runtime::engine::status::{ContainerStatus, Outcome};

use super::Manner;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::progress::with_spinner;
use crate::cli::side_by_side::side_by_side;

/// One or more containers.
#[derive(Debug, Args)]
pub(crate) struct Containers {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// One or more containers, or all.
#[derive(Debug, Args)]
pub(crate) struct ContainersOrAll {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,

    /// Select all containers created by rust-kata
    #[arg(long, short, conflicts_with = "containers")]
    pub(crate) all: bool,
}

/// The containers to act on, by their pods, each once; and the errors of those that were not
/// found.
#[derive(Debug)]
pub(crate) struct Groups {
    pods: Vec<(PodHandle, Vec<String>)>,
    failures: Failures,
    manner: Manner,
}

impl ContainersOrAll {
    /// The named containers; if all are selected, those in a state that `fits`.
    pub(crate) fn groups(
        &self,
        context: &Context,
        manner: Manner,
        fits: impl Fn(ContainerStatus) -> bool,
    ) -> CliResult<Groups> {
        if self.all {
            Groups::all(context, manner, |files| fits(files.state.status))
        } else {
            Ok(Groups::named(context, manner, &self.containers))
        }
    }
}

impl Containers {
    pub(crate) fn groups(&self, context: &Context, manner: Manner) -> Groups {
        Groups::named(context, manner, &self.containers)
    }
}

impl Groups {
    /// The containers with these names or ids.
    pub(crate) fn named(context: &Context, manner: Manner, wanted: &[String]) -> Self {
        let mut groups = Self::none(manner);
        for wanted in wanted {
            match context.container(wanted) {
                Ok((pod, name)) => groups.add(pod, name),
                Err(error) => manner.report_missing(&mut groups.failures, &error),
            }
        }
        groups
    }

    /// All containers that fit. A pod or container that cannot be read is reported.
    pub(crate) fn all(
        context: &Context,
        manner: Manner,
        fits: impl Fn(&ContainerFiles) -> bool,
    ) -> CliResult<Self> {
        let mut groups = Self::none(manner);
        for pod in context.engine.pods(context.namespace.as_deref())? {
            let view = match pod {
                Ok(view) => view,
                Err(bad) => {
                    groups.failures.report(&bad.error.into());
                    continue;
                }
            };
            let fitting = view.containers.iter().filter(|(_, files)| match files {
                Ok(files) => fits(files),
                // The error is reported with those of named containers.
                Err(_) => true,
            });
            let fitting: Vec<String> = fitting.map(|(name, _)| name.clone()).collect();
            if fitting.is_empty() {
                continue;
            }
            let pod = context
                .engine
                .pod(view.paths.namespace(), view.paths.name());
            if let Some(pod) = groups.failures.check(pod.map_err(Into::into)) {
                fitting
                    .into_iter()
                    .for_each(|name| groups.add(pod.clone(), name));
            }
        }
        Ok(groups)
    }

    fn none(manner: Manner) -> Self {
        Self {
            pods: Vec::new(),
            failures: Failures::default(),
            manner,
        }
    }

    fn add(&mut self, pod: PodHandle, name: String) {
        let known = self.pods.iter_mut();
        let mut known = known.filter(|(there, _)| there.paths() == pod.paths());
        match known.next() {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => self.pods.push((pod, vec![name])),
        }
    }

    /// Reports the containers that cannot be read, and leaves them out: an operation on a list
    /// with one of them is refused as a whole. A forced removal takes them.
    fn leave_out_unreadable(&mut self) {
        if self.manner.forced() {
            return;
        }
        let failures = &mut self.failures;
        for (pod, names) in &mut self.pods {
            // If the pod itself cannot be read, the operation says so.
            let Ok(view) = pod.view() else { continue };
            if matches!(self.manner, Manner::Removal { .. }) {
                failures.note_running(view.in_state(ContainerStatus::is_running));
            }
            names.retain(|name| match view.containers.get(name) {
                Some(Err(_)) => {
                    failures.check(view.container(name).map_err(Into::into));
                    false
                }
                _ => true,
            });
        }
        self.pods.retain(|(_, names)| !names.is_empty());
    }

    /// Applies `work` to the containers of each pod, and prints the names of those for which it
    /// succeeded.
    pub(crate) async fn each(
        mut self,
        doing: &str,
        work: impl AsyncFn(&PodHandle, &[String]) -> runtime::Result<Outcome>,
    ) -> CliResult<()> {
        self.leave_out_unreadable();
        let mut failures = self.failures;
        let manner = self.manner;
        let mut finished = |result: runtime::Result<Outcome>| {
            let result = result.map_err(crate::error::Error::from);
            match result {
                Err(error) if !manner.minds(&error) => {}
                result => {
                    let outcome = failures.check(result).unwrap_or_default();
                    for name in failures.check_all(outcome) {
                        print(&format!("{name}\n"))?;
                    }
                }
            }
            Ok(())
        };
        let all = self.pods.iter().flat_map(|(_, names)| names);
        let all: Vec<&str> = all.map(String::as_str).collect();
        if manner == Manner::InTurn {
            for (pod, names) in &self.pods {
                let what = format!("{doing} {}", names.join(", "));
                finished(with_spinner(what, work(pod, names)).await)?;
            }
        } else {
            let what = format!("{doing} {}", all.join(", "));
            let works = self.pods.iter().map(|(pod, names)| work(pod, names));
            side_by_side(&what, works, finished).await?;
        }
        failures.finish()
    }

    /// Applies `work` to one container after the other.
    pub(crate) async fn one_by_one(
        mut self,
        work: impl AsyncFn(&PodHandle, &str) -> CliResult<()>,
    ) -> CliResult<()> {
        self.leave_out_unreadable();
        for (pod, names) in &self.pods {
            for name in names {
                let done = work(pod, name).await;
                self.failures.check(done);
            }
        }
        self.failures.finish()
    }
}
