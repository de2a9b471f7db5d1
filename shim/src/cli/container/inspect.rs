//! `rust-kata container inspect`.

use clap::Args;
use runtime::engine::PodHandle;
use runtime::engine::foreign::ManagedBy;
use runtime::engine::records::definition::ContainerDefinition;
use runtime::engine::records::record::ContainerState;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::foreign;
use crate::cli::output::{json, value};
use crate::cli::select::{Container, Containers};

/// Arguments of `container inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: Containers,
}

/// The configuration and state of a container.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    pod: &'a str,
    namespace: &'a str,
    #[serde(rename = "front_door")]
    managed_by: String,
    status: String,
    path: String,
    log: String,
    #[serde(flatten)]
    definition: &'a ContainerDefinition,
    state: &'a ContainerState,
}

impl Inspect {
    /// Prints the containers that are found, also if others are not.
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let mut failures = Failures::default();
        let mut all: Vec<serde_json::Value> = Vec::new();
        for wanted in &self.which.containers {
            let shown = context.any_container(wanted).and_then(|found| match found {
                Container::Managed(pod, name) => inspect(&pod, &name),
                Container::Foreign(container) => foreign::inspect_container(&container),
            });
            // Each once.
            let known = |id: &serde_json::Value| all.iter().any(|one| one["id"] == *id);
            let shown = failures.check(shown).filter(|shown| !known(&shown["id"]));
            all.extend(shown);
        }
        json(&all)?;
        failures.finish()
    }
}

fn inspect(pod: &PodHandle, name: &str) -> CliResult<serde_json::Value> {
    let view = pod.view()?;
    let files = view.container(name)?;
    let paths = view.paths.container(name)?;
    value(&Inspected {
        pod: &view.definition.name,
        namespace: &view.definition.namespace,
        managed_by: ManagedBy::RustKata.to_string(),
        status: files.state.status.to_string(),
        path: paths.path().display().to_string(),
        log: paths.log().display().to_string(),
        definition: &files.definition,
        state: &files.state,
    })
}
