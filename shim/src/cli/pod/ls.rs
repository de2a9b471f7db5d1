//! `rust-kata pod ls`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use runtime::engine::foreign::{ListedPod, ManagedBy};
use runtime::engine::records::view::PodView;
use runtime::engine::time::rfc3339;
use serde::{Serialize, Serializer};

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::filter::{CONTAINER_STATUS, Filter, Key, Kind, is_status};
use crate::cli::foreign;
use crate::cli::output::{ago, json, print, table};
use crate::run::OWN_ERROR;

/// Arguments of `pod ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: OutputFormat,

    /// Filter output by ctr-ids, ctr-names, ctr-number, ctr-status, id, label, name, namespace,
    /// status or until (time or duration); ids and names are regular expressions. Values of the
    /// same key are alternatives, labels not
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Print names only
    #[arg(long, short)]
    quiet: bool,
}

/// The keys of `--filter`; those with `ctr-` are about containers.
const KEYS: [Key; 10] = [
    ("ctr-ids", Kind::Pattern),
    ("ctr-names", Kind::Pattern),
    ("ctr-number", Kind::Number),
    ("ctr-status", CONTAINER_STATUS),
    ("id", Kind::Pattern),
    ("label", Kind::Label),
    ("name", Kind::Pattern),
    ("namespace", Kind::Text),
    ("status", POD_STATUS),
    ("until", Kind::Until),
];

const POD_STATUS: Kind = Kind::Checked(
    |word| {
        let states = [
            "created", "running", "degraded", "paused", "stopped", "exited", "error",
        ];
        states.contains(&word.to_ascii_lowercase().as_str())
    },
    "created, running, degraded, paused, stopped, exited or error",
);

/// A container of a pod, for filters.
#[derive(Debug)]
struct Part {
    id: String,
    name: String,
    status: String,
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
    #[serde(skip)]
    parts: Vec<Part>,
}

impl Row {
    fn fits(&self, filter: &Filter) -> bool {
        let any = |fits: &dyn Fn(&Part) -> bool| self.parts.iter().any(fits);
        filter.matches(|key, wanted| match key {
            "ctr-ids" => any(&|part| wanted.is(&part.id)),
            "ctr-names" => any(&|part| wanted.is(&part.name)),
            "ctr-number" => wanted.is_number(self.containers as u64),
            "ctr-status" => any(&|part| is_status(&part.status, wanted.text())),
            "id" => wanted.is(&self.id),
            "label" => wanted.is_among(&self.labels),
            "name" => wanted.is(&self.name),
            "namespace" => wanted.is(&self.namespace),
            "until" => wanted.is_after(self.created),
            _ => self.status.eq_ignore_ascii_case(wanted.text()),
        })
    }
}

fn when<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.map(rfc3339).unwrap_or_default())
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<u8> {
        let filter = Filter::parse(&self.filter, &KEYS)?;
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
                    parts: Vec::new(),
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
                parts: foreign_parts(&pod),
            });
        }
        rows.retain(|row| row.fits(&filter));
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

fn foreign_parts(pod: &ListedPod) -> Vec<Part> {
    let parts = pod.containers.iter().map(|(id, files)| Part {
        id: id.clone(),
        name: files
            .as_ref()
            .ok()
            .and_then(|files| files.bundle_info().name)
            .unwrap_or_else(|| id.clone()),
        status: match files {
            Ok(files) => files.status().to_string(),
            Err(_) => String::new(),
        },
    });
    parts.collect()
}

fn row(view: PodView) -> Row {
    let parts = view.containers.iter().map(|(name, files)| {
        let files = files.as_ref().ok();
        Part {
            id: files.map(|f| f.definition.id.clone()).unwrap_or_default(),
            name: name.clone(),
            status: files.map_or_else(String::new, |f| f.state.status.to_string()),
        }
    });
    let parts = parts.collect();
    Row {
        parts,
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
