//! `rust-kata container ls`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use runtime::engine::foreign::{ListedContainer, ListedPod, ManagedBy};
use runtime::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use runtime::engine::records::record::ContainerState;
use serde::Serialize;

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::filter::{CONTAINER_STATUS, Filter, Key, Kind, is_status};
use crate::cli::foreign;
use crate::cli::output::{ago, command, json, print, table};
use crate::cli::select::Pod;
use crate::run::OWN_ERROR;

/// Arguments of `container ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: OutputFormat,

    /// Show all containers, not only running ones
    #[arg(long, short)]
    all: bool,

    /// Filter output by exited (code), id, label, name, pod, status or until (time or duration);
    /// id and name are regular expressions. Values of the same key are alternatives, labels not
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Print names only
    #[arg(long, short)]
    quiet: bool,

    /// Show the containers of one pod
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
}

/// The keys of `--filter`.
const KEYS: [Key; 7] = [
    ("exited", Kind::Number),
    ("id", Kind::Pattern),
    ("label", Kind::Label),
    ("name", Kind::Pattern),
    ("pod", Kind::Text),
    ("status", CONTAINER_STATUS),
    ("until", Kind::Until),
];

/// A container in a list.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    pod: String,
    pod_id: String,
    namespace: String,
    status: String,
    exit_code: Option<u32>,
    pid: u32,
    image: String,
    command: Vec<String>,
    restarts: u32,
    labels: BTreeMap<String, String>,
    #[serde(rename = "front_door")]
    managed_by: String,
    #[serde(skip)]
    created: SystemTime,
    #[serde(skip)]
    shown: String,
}

impl Row {
    fn fits(&self, filter: &Filter) -> bool {
        filter.matches(|key, wanted| match key {
            "exited" => {
                let code = self.exit_code.filter(|_| is_status(&self.status, "exited"));
                code.is_some_and(|code| wanted.is_number(code.into()))
            }
            "id" => wanted.is(&self.id),
            "label" => wanted.is_among(&self.labels),
            "name" => wanted.is(&self.name),
            "pod" => wanted.is(&self.pod) || self.pod_id.starts_with(wanted.text()),
            "until" => wanted.is_after(Some(self.created)),
            _ => is_status(&self.status, wanted.text()),
        })
    }
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> CliResult<u8> {
        let filter = Filter::parse(&self.filter, &KEYS)?;
        let mut rows = Vec::new();
        let mut code = 0;
        let only = self.pod.as_deref();
        let only = only.map(|pod| context.any_pod(pod)).transpose()?;
        for view in context.engine.pods(context.namespace.as_deref())? {
            let view = match view {
                Ok(view) => view,
                Err(bad) => {
                    crate::terminal::say(&bad.error.to_string());
                    code = OWN_ERROR;
                    continue;
                }
            };
            match &only {
                Some(Pod::Managed(pod)) if *pod.paths() == view.paths => {}
                None => {}
                _ => continue,
            }
            for (name, files) in &view.containers {
                match files {
                    Ok(files) if self.all || files.state.status.is_live() => {
                        rows.push(row(&view.definition, &files.definition, &files.state));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        crate::terminal::say(&format!("{name}: {error}"));
                        code = OWN_ERROR;
                    }
                }
            }
        }
        let foreign = match only {
            None => foreign::pods(context)?,
            Some(Pod::Foreign(pod)) => vec![*pod],
            Some(Pod::Managed(_)) => Vec::new(),
        };
        for pod in foreign {
            for (id, files) in &pod.containers {
                match files {
                    Ok(files) if self.all || files.status().is_live() => {
                        rows.push(foreign_row(&pod, id, files));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        crate::terminal::say(&format!("{id}: {error}"));
                        code = OWN_ERROR;
                    }
                }
            }
        }
        rows.retain(|row| row.fits(&filter));
        if self.quiet {
            let names: String = rows.iter().map(|row| format!("{}\n", row.name)).collect();
            return print(&names).map(|()| code);
        }
        if self.output.is_json() {
            return json(&rows).map(|()| code);
        }
        let heads = [
            "CONTAINER ID",
            "NAME",
            "POD",
            "NAMESPACE",
            "STATUS",
            "ROOT",
            "COMMAND",
            "MANAGED BY",
        ];
        let cells = rows.iter().map(|row| {
            vec![
                row.id.chars().take(12).collect(),
                row.name.clone(),
                row.pod.clone(),
                row.namespace.clone(),
                row.shown.clone(),
                row.image.clone(),
                command(&row.command),
                row.managed_by.clone(),
            ]
        });
        table(&heads, &cells.collect::<Vec<_>>()).map(|()| code)
    }
}

fn row(pod: &PodDefinition, definition: &ContainerDefinition, state: &ContainerState) -> Row {
    use runtime::engine::status::ContainerStatus::{Exited, Running};
    let since = match state.status {
        Running => state.started,
        Exited => state.finished,
        _ => None,
    };
    let since = since.map(|at| format!(" {}", ago(at))).unwrap_or_default();
    let code = match (state.status, state.exit_code) {
        (Exited, Some(code)) => format!(" ({code})"),
        _ => String::new(),
    };
    Row {
        id: definition.id.clone(),
        name: definition.name.clone(),
        pod: pod.name.clone(),
        pod_id: pod.id.clone(),
        namespace: pod.namespace.clone(),
        status: state.status.to_string(),
        exit_code: state.exit_code,
        pid: state.pid,
        image: match &definition.rootfs {
            Rootfs::Directory(path) => path.display().to_string(),
            Rootfs::Image { reference, .. } => reference.clone(),
        },
        command: definition.command().to_vec(),
        restarts: state.restarts,
        labels: definition.labels.clone(),
        created: definition.created,
        managed_by: ManagedBy::RustKata.to_string(),
        shown: format!("{}{code}{since}", state.status),
    }
}

fn foreign_row(pod: &ListedPod, id: &str, files: &ListedContainer) -> Row {
    let init = files.state.init;
    let ended = init
        .exit
        .map(|exit| format!(" ({}) {}", exit.status, ago(exit.at)));
    let described = files.bundle_info();
    Row {
        id: id.to_owned(),
        name: described.name.unwrap_or_else(|| id.to_owned()),
        pod: pod.name().to_owned(),
        pod_id: pod.config.id.clone(),
        namespace: pod.config.namespace.clone(),
        status: files.status().to_string(),
        exit_code: init.exit.map(|exit| exit.status),
        pid: init.pid,
        image: described.image,
        command: described.command,
        restarts: 0,
        labels: described.labels,
        created: files.record.created,
        managed_by: pod.config.managed_by.to_string(),
        shown: format!("{}{}", files.status(), ended.unwrap_or_default()),
    }
}
