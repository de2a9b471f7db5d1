//! `rust-kata pod ls`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use runtime::engine::foreign::ManagedBy;
use runtime::engine::records::view::PodView;
use runtime::engine::time::rfc3339;
use serde::{Serialize, Serializer};

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::filter::{Filter, has_label};
use crate::cli::foreign;
use crate::cli::output::{ago, json, print, table};
use crate::run::OWN_ERROR;

/// Arguments of `pod ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: OutputFormat,

    /// Filter output by id, label, name, namespace or status; values of the same key are alternatives
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Print names only
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
    #[serde(rename = "front_door")]
    managed_by: String,
}

fn when<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.map(rfc3339).unwrap_or_default())
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<u8> {
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
                    name: bad.paths.name().into(),
                    namespace: bad.paths.namespace().into(),
                    status: "Error".into(),
                    created: None,
                    containers: 0,
                    infra: false,
                    labels: BTreeMap::new(),
                    managed_by: ManagedBy::RustKata.to_string(),
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
                managed_by: pod.config.managed_by.to_string(),
            });
        }
        let keys = ["id", "label", "name", "namespace", "status"];
        let filter = Filter::parse(&self.filter, &keys)?;
        let matches = |row: &Row| {
            filter.matches(|key, value| match key {
                "id" => row.id.starts_with(value),
                "label" => has_label(&row.labels, value),
                "name" => row.name == value,
                "namespace" => row.namespace == value,
                _ => row.status.eq_ignore_ascii_case(value),
            })
        };
        rows.retain(matches);
        if self.quiet {
            let names: String = rows.iter().map(|row| format!("{}\n", row.name)).collect();
            print(&names)?;
        } else if self.output.is_json() {
            json(&rows)?;
        } else {
            let heads = [
                "POD ID",
                "NAME",
                "NAMESPACE",
                "STATUS",
                "CREATED",
                "CONTAINERS",
                "MANAGED BY",
            ];
            let cells = rows.iter().map(|row| {
                vec![
                    row.id.chars().take(12).collect(),
                    row.name.clone(),
                    row.namespace.clone(),
                    row.status.clone(),
                    row.created.map(ago).unwrap_or_default(),
                    row.containers.to_string(),
                    row.managed_by.clone(),
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
        managed_by: ManagedBy::RustKata.to_string(),
    }
}
