//! `rust-kata container inspect`.

use clap::Args;
use runtime::engine::foreign::ManagedBy;
use runtime::engine::records::definition::ContainerDefinition;
use runtime::engine::records::record::ContainerState;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::foreign;
use crate::cli::output::{json, value};
use crate::cli::select::Containers;

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
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let mut all = Vec::new();
        let (managed, foreign) = self.which.by_manager(context)?;
        for (pod, names) in managed.by_pod(context)? {
            let view = pod.view()?;
            for name in names {
                let files = view.container(&name)?;
                let paths = view.paths.container(&name)?;
                let inspected = Inspected {
                    pod: &view.definition.name,
                    namespace: &view.definition.namespace,
                    managed_by: ManagedBy::RustKata.to_string(),
                    status: files.state.status.to_string(),
                    path: paths.path().display().to_string(),
                    log: paths.log().display().to_string(),
                    definition: &files.definition,
                    state: &files.state,
                };
                all.push(value(&inspected)?);
            }
        }
        for container in foreign {
            all.push(foreign::inspect_container(&container)?);
        }
        json(&all)
    }
}
