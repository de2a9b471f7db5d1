//! Foreign pods: those of containerd and of the shim's `run`. They can be listed,
//! inspected and entered, but only their manager changes them.

use std::collections::BTreeMap;

use runtime::Error;
use runtime::engine::foreign::{self, ForeignContainer, ListedPod};
use runtime::engine::time::rfc3339;
use serde::Serialize;

use super::context::Context;
use super::error::CliResult;
use super::output::value;

/// The foreign pods of the chosen namespace, or of all. A pod that cannot be read is
/// reported and left out.
pub(crate) fn pods(context: &Context) -> CliResult<Vec<ListedPod>> {
    let listed = context.engine.foreign_pods(context.namespace.as_deref())?;
    Ok(listed
        .into_iter()
        .filter_map(|pod| {
            let unreadable = |bad: &foreign::UnreadableForeignPod| {
                crate::terminal::say(&format!("{}/{}: {}", bad.namespace, bad.pod, bad.error));
            };
            pod.inspect_err(unreadable).ok()
        })
        .collect())
}

/// A foreign pod, by its id, the beginning of its id, or its name in Kubernetes.
pub(crate) fn pod(context: &Context, wanted: &str) -> CliResult<Option<ListedPod>> {
    Ok(foreign::find_pod(pods(context)?, wanted)?)
}

/// A foreign container, by `POD/ID`, its id, the beginning of its id, or its name in
/// Kubernetes.
pub(crate) fn container(context: &Context, wanted: &str) -> CliResult<Option<ForeignContainer>> {
    Ok(foreign::find_container(pods(context)?, wanted)?)
}

/// The configuration and state of the container.
pub(crate) fn inspect_container(found: &ForeignContainer) -> CliResult<serde_json::Value> {
    let files = found.pod.containers.get(&found.container);
    let files = match files {
        Some(Ok(files)) => files,
        _ => return Err(Error::not_found("container", &found.container).into()),
    };
    let init = files.state.init;
    let described = files.bundle_info();
    value(&InspectedContainer {
        pod: &found.pod.config.id,
        namespace: &found.pod.config.namespace,
        managed_by: found.pod.config.managed_by.to_string(),
        id: &files.record.id,
        name: described.name.as_ref().unwrap_or(&files.record.id),
        status: files.status().to_string(),
        created: rfc3339(files.record.created),
        bundle: files.record.bundle.display().to_string(),
        command: described.command,
        spec: runtime::load_spec(&files.record.bundle).ok(),
        state: InspectedState {
            status: files.status().to_string(),
            pid: init.pid,
            exit_code: init.exit.map(|exit| exit.status),
            finished: init.exit.map(|exit| rfc3339(exit.at)),
            execs: files.state.execs.keys().collect(),
        },
    })
}

#[derive(Serialize)]
struct InspectedContainer<'a> {
    pod: &'a str,
    namespace: &'a str,
    #[serde(rename = "front_door")]
    managed_by: String,
    id: &'a str,
    name: &'a str,
    status: String,
    created: String,
    bundle: String,
    command: Vec<String>,
    spec: Option<oci_spec::runtime::Spec>,
    state: InspectedState<'a>,
}

#[derive(Serialize)]
struct InspectedState<'a> {
    status: String,
    pid: u32,
    exit_code: Option<u32>,
    finished: Option<String>,
    execs: Vec<&'a String>,
}

#[derive(Serialize)]
struct InspectedPod<'a> {
    id: &'a str,
    name: &'a str,
    namespace: &'a str,
    #[serde(rename = "front_door")]
    managed_by: String,
    status: String,
    owner_pid: Option<u32>,
    path: String,
    labels: BTreeMap<&'a String, &'a String>,
    config: &'a foreign::PodConfig,
    state: &'a foreign::PodRunState,
    containers: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'a str,
    id: &'a str,
    status: String,
}

/// The configuration and state of a foreign pod.
pub(crate) fn inspect_pod(pod: &ListedPod) -> CliResult<serde_json::Value> {
    let containers = pod.containers.iter().map(|(id, files)| Part {
        name: id,
        id,
        status: match files {
            Ok(files) => files.status().to_string(),
            Err(error) => format!("error: {error}"),
        },
    });
    value(&InspectedPod {
        id: &pod.config.id,
        name: pod.name(),
        namespace: &pod.config.namespace,
        managed_by: pod.config.managed_by.to_string(),
        status: pod.status().to_string(),
        owner_pid: pod.owner.as_ref().map(|owner| owner.pid),
        path: pod.path().display().to_string(),
        labels: pod.config.labels.iter().collect(),
        config: &pod.config,
        state: &pod.state,
        containers: containers.collect(),
    })
}
