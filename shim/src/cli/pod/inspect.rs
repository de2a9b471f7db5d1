//! `rust-kata pod inspect`.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::foreign::ManagedBy;
use runtime::engine::records::definition::PodDefinition;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::foreign;
use crate::cli::output::{json, value};
use crate::cli::select::Pods;

/// Arguments of `pod inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: Pods,
}

/// The configuration and state of a pod.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    status: String,
    #[serde(rename = "front_door")]
    managed_by: String,
    owner_pid: Option<u32>,
    infra_running: bool,
    path: String,
    cgroup_path: String,
    #[serde(flatten)]
    definition: &'a PodDefinition,
    state: &'a runtime::engine::records::record::PodState,
    containers: Vec<InspectedContainer<'a>>,
}

#[derive(Debug, Serialize)]
struct InspectedContainer<'a> {
    name: &'a str,
    id: Option<&'a str>,
    status: String,
}

impl Inspect {
    /// Prints the pods that are found, also if others are not.
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        let mut all = Vec::new();
        for pod in self.which.handles(context)? {
            let shown = match pod {
                Ok(pod) => inspect(context, &pod),
                Err((name, error)) => inspect_foreign(context, &name, error),
            };
            all.extend(failures.check(shown));
        }
        json(&all)?;
        failures.finish()
    }
}

fn inspect_foreign(
    context: &Context,
    name: &str,
    error: crate::error::Error,
) -> CliResult<serde_json::Value> {
    match foreign::pod(context, name)? {
        Some(pod) => foreign::inspect_pod(&pod),
        None => Err(error),
    }
}

fn inspect(context: &Context, pod: &PodHandle) -> CliResult<serde_json::Value> {
    let view = pod.view()?;
    let containers = view
        .containers
        .iter()
        .map(|(name, files)| InspectedContainer {
            name,
            id: files.as_ref().ok().map(|f| f.definition.id.as_str()),
            status: match files {
                Ok(files) => files.state.status.to_string(),
                Err(error) => format!("error: {error}"),
            },
        });
    let manager = context.engine.config().cgroup_manager;
    let cgroup = view.definition.cgroup_on_host(manager);
    let inspected = Inspected {
        status: view.status().to_string(),
        managed_by: ManagedBy::RustKata.to_string(),
        owner_pid: view.owner.as_ref().map(|owner| owner.pid),
        infra_running: view.infra_runs(),
        path: view.paths.path().display().to_string(),
        cgroup_path: cgroup.display().to_string(),
        definition: &view.definition,
        state: &view.state,
        containers: containers.collect(),
    };
    value(&inspected)
}
