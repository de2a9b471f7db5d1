//! Pods as they are shown: lists, and all there is to know about one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use runtime::engine::foreign::FrontDoor;
use runtime::engine::records::definition::PodDefinition;
use runtime::engine::records::view::PodView;
use runtime::engine::time::rfc3339;
use serde::{Serialize, Serializer};

use super::Context;
use super::error::CliResult;
use super::filter::{Filter, has_label};
use super::foreign;
use super::output::{Format, ago, json, print, table, value};
use super::pod::Pods;
use crate::run::OWN_ERROR;

/// `rust-kata pod ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Those alone that fit: id, label, name, namespace or status; values of one key are alternatives
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Names alone
    #[arg(long, short)]
    quiet: bool,
}

/// A pod in a list.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    namespace: String,
    status: String,
    #[serde(serialize_with = "when")]
    created: Option<SystemTime>,
    containers: usize,
    infra: bool,
    labels: BTreeMap<String, String>,
    front_door: String,
}

fn when<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.map(rfc3339).unwrap_or_default())
}

impl Ls {
    pub(super) fn run(self, context: &Context) -> CliResult<u8> {
        let mut rows = Vec::new();
        let mut code = 0;
        for pod in context
            .engine
            .pods_seen(context.namespace.as_deref(), row)?
        {
            rows.push(pod.unwrap_or_else(|bad| {
                crate::terminal::say(&bad.error.to_string());
                code = OWN_ERROR;
                Row {
                    id: String::new(),
                    name: bad.home.name().into(),
                    namespace: bad.home.namespace().into(),
                    status: "Error".into(),
                    created: None,
                    containers: 0,
                    infra: false,
                    labels: BTreeMap::new(),
                    front_door: FrontDoor::RustKata.to_string(),
                }
            }));
        }
        for pod in foreign::pods(context)? {
            let parts = pod.containers.values().flatten();
            rows.push(Row {
                id: pod.config.id.clone(),
                name: pod.name().to_owned(),
                namespace: pod.config.namespace.clone(),
                status: pod.status().to_string(),
                created: parts.map(|part| part.record.created).min(),
                containers: pod.containers.len(),
                infra: false,
                labels: pod.config.labels.clone().into_iter().collect(),
                front_door: pod.config.front_door.to_string(),
            });
        }
        let keys = ["id", "label", "name", "namespace", "status"];
        let filter = Filter::parse(&self.filter, &keys)?;
        let fits = |row: &Row| {
            filter.fits(|key, value| match key {
                "id" => row.id.starts_with(value),
                "label" => has_label(&row.labels, value),
                "name" => row.name == value,
                "namespace" => row.namespace == value,
                _ => row.status.eq_ignore_ascii_case(value),
            })
        };
        rows.retain(fits);
        if self.quiet {
            let names: String = rows.iter().map(|row| format!("{}\n", row.name)).collect();
            print(&names)?;
        } else if self.format == Format::Json {
            json(&rows)?;
        } else {
            let heads = [
                "POD ID",
                "NAME",
                "NAMESPACE",
                "STATUS",
                "CREATED",
                "CONTAINERS",
                "FRONT DOOR",
            ];
            let cells = rows.iter().map(|row| {
                vec![
                    row.id.chars().take(12).collect(),
                    row.name.clone(),
                    row.namespace.clone(),
                    row.status.clone(),
                    row.created.map(ago).unwrap_or_default(),
                    row.containers.to_string(),
                    row.front_door.clone(),
                ]
            });
            table(&heads, &cells.collect::<Vec<_>>())?;
        }
        Ok(code)
    }
}

fn row(view: PodView) -> Row {
    Row {
        status: view.status().to_string(),
        id: view.definition.id,
        name: view.definition.name,
        namespace: view.definition.namespace,
        created: Some(view.definition.created),
        containers: view.containers.len(),
        infra: view.definition.infra,
        labels: view.definition.labels,
        front_door: FrontDoor::RustKata.to_string(),
    }
}

/// All there is to know about a pod.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    status: String,
    front_door: String,
    owner_pid: Option<u32>,
    infra_running: bool,
    path: String,
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

pub(super) fn inspect(context: &Context, pods: &Pods) -> CliResult<u8> {
    let mut all = Vec::new();
    for pod in pods.handles(context) {
        let pod = match pod {
            Ok(pod) => pod,
            Err((name, error)) => match foreign::pod(context, &name)? {
                Some(pod) => {
                    all.push(foreign::inspect_pod(&pod)?);
                    continue;
                }
                None => return Err(error),
            },
        };
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
        let inspected = Inspected {
            status: view.status().to_string(),
            front_door: FrontDoor::RustKata.to_string(),
            owner_pid: view.owner.as_ref().map(|owner| owner.pid),
            infra_running: view.infra_runs(),
            path: view.home.path().display().to_string(),
            definition: &view.definition,
            state: &view.state,
            containers: containers.collect(),
        };
        all.push(value(&inspected)?);
    }
    json(&all)?;
    Ok(0)
}
