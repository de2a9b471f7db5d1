//! The arguments of commands that name pods and containers, and the objects with these names.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::foreign::{ForeignContainer, ListedPod};
use runtime::engine::status::Outcome;

use super::context::Context;
use super::error::{CliResult, report_errors};
use super::foreign;
use super::output::print;
use super::progress::with_spinner;
use crate::error::Error;

/// A container, by the manager of its pod.
pub(crate) enum Container {
    /// A container in a pod of the engine.
    Managed(PodHandle, String),
    /// A container in a pod of containerd, or of the shim's `run`.
    Foreign(Box<ForeignContainer>),
}

/// A pod, by its manager.
pub(crate) enum Pod {
    /// A pod of the engine.
    Managed(PodHandle),
    /// A pod of containerd, or of the shim's `run`.
    Foreign(Box<ListedPod>),
}

impl Context {
    /// The pod of the engine with this name or id. A foreign pod is refused with
    /// a hint at the right tool.
    pub(crate) fn pod(&self, wanted: &str) -> CliResult<PodHandle> {
        match self.any_pod(wanted)? {
            Pod::Managed(pod) => Ok(pod),
            Pod::Foreign(pod) => Err(pod.refusal().into()),
        }
    }

    /// The pod with this name or id, managed or foreign.
    pub(crate) fn any_pod(&self, wanted: &str) -> CliResult<Pod> {
        match self.engine.find_pod(self.namespace.as_deref(), wanted) {
            Err(e @ runtime::Error::NotFound { .. }) => match foreign::pod(self, wanted)? {
                Some(pod) => Ok(Pod::Foreign(Box::new(pod))),
                None => Err(e.into()),
            },
            other => Ok(Pod::Managed(other?)),
        }
    }

    /// The container of the engine with this name or id, and its pod. A foreign
    /// container is refused with a hint at the right tool.
    pub(crate) fn container(&self, wanted: &str) -> CliResult<(PodHandle, String)> {
        match self.any_container(wanted)? {
            Container::Managed(pod, name) => Ok((pod, name)),
            Container::Foreign(foreign) => Err(foreign.refusal().into()),
        }
    }

    /// The container with this name or id, managed or foreign.
    pub(crate) fn any_container(&self, wanted: &str) -> CliResult<Container> {
        let found = self
            .engine
            .find_container(self.namespace.as_deref(), wanted);
        match found {
            Ok((pod, name)) => Ok(Container::Managed(pod, name)),
            Err(e @ runtime::Error::NotFound { .. }) => match foreign::container(self, wanted)? {
                Some(foreign) => Ok(Container::Foreign(Box::new(foreign))),
                None => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }
}

/// One container.
#[derive(Debug, Args)]
pub(crate) struct OneContainer {
    /// Container by name, POD/NAME, id or the beginning of an id
    pub(crate) container: String,
}

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
    containers: Vec<String>,

    /// Select all containers created by rust-kata
    #[arg(long, short, conflicts_with = "containers")]
    all: bool,
}

impl ContainersOrAll {
    /// The containers by name, also if all are selected.
    pub(crate) fn named(self, context: &Context) -> CliResult<Containers> {
        let mut containers = self.containers;
        if self.all {
            for pod in context.engine.pods(context.namespace.as_deref())? {
                let pod = pod.map_err(|bad| bad.error)?;
                let names = pod.containers.keys();
                containers.extend(names.map(|name| format!("{}/{name}", pod.definition.name)));
            }
        }
        Ok(Containers { containers })
    }
}

impl Containers {
    /// Applies `work` to the containers, pod by pod, and prints the names of those
    /// for which it succeeded.
    pub(crate) async fn each(
        &self,
        context: &Context,
        doing: &str,
        work: impl AsyncFn(&PodHandle, &[String]) -> runtime::Result<Outcome>,
    ) -> CliResult<()> {
        let mut outcome = Outcome::default();
        for (pod, names) in self.by_pod(context)? {
            let what = format!("{doing} {}", names.join(", "));
            let part = with_spinner(what, work(&pod, &names)).await?;
            outcome.done.extend(part.done);
            outcome.ignored.extend(part.ignored);
            outcome.errors.extend(part.errors);
        }
        let asked = [&outcome.done[..], &outcome.ignored[..]].concat();
        for name in asked {
            print(&format!("{name}\n"))?;
        }
        report_errors(outcome).map(drop)
    }

    /// Splits them into the engine's containers and foreign ones.
    pub(crate) fn by_manager(&self, context: &Context) -> CliResult<(Self, Vec<ForeignContainer>)> {
        let (mut containers, mut foreign) = (Vec::new(), Vec::new());
        for wanted in &self.containers {
            match context.any_container(wanted)? {
                Container::Managed(..) => containers.push(wanted.clone()),
                Container::Foreign(found) => foreign.push(*found),
            }
        }
        Ok((Self { containers }, foreign))
    }

    /// The containers by their pods, each once.
    pub(crate) fn by_pod(&self, context: &Context) -> CliResult<Vec<(PodHandle, Vec<String>)>> {
        let mut pods: Vec<(PodHandle, Vec<String>)> = Vec::new();
        for wanted in &self.containers {
            let (pod, name) = context.container(wanted)?;
            match pods
                .iter_mut()
                .find(|(there, _)| there.paths() == pod.paths())
            {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => pods.push((pod, vec![name])),
            }
        }
        Ok(pods)
    }
}

/// One pod.
#[derive(Debug, Args)]
pub(crate) struct OnePod {
    /// Pod by name, id or the beginning of an id
    pub(crate) pod: String,
}

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
    /// The pods; for one that is not found, its name and the error.
    pub(crate) fn handles(&self, context: &Context) -> Vec<Result<PodHandle, (String, Error)>> {
        let mut names = self.pods.clone();
        if self.all {
            match context.engine.pod_names(context.namespace.as_deref()) {
                Ok(all) => return all.into_iter().map(Ok).collect(),
                Err(error) => return vec![Err((String::new(), error.into()))],
            }
        }
        names.dedup();
        let found = names
            .into_iter()
            .map(|name| context.pod(&name).map_err(|e| (name, e)));
        found.collect()
    }

    /// Applies `work` to each pod, also after one has failed, and prints the names of
    /// those for which it succeeded.
    pub(crate) async fn each(
        &self,
        context: &Context,
        doing: &str,
        work: impl AsyncFn(&PodHandle) -> CliResult<Vec<String>>,
    ) -> CliResult<()> {
        let mut last = None;
        for pod in self.handles(context) {
            let (name, result) = match pod {
                Ok(pod) => {
                    let name = pod.name().to_owned();
                    let result = with_spinner(format!("{doing} pod {name}"), work(&pod)).await;
                    (name, result)
                }
                Err((name, error)) => (name, Err(error)),
            };
            if let Some(error) = last.take() {
                crate::terminal::say(&format!("{error}"));
            }
            match result {
                Ok(_) => print(&format!("{name}\n"))?,
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(()), Err)
    }
}
