//! Containers as they are shown: lists, and all there is to know about one.

use std::collections::BTreeMap;

use clap::Args;
use runtime::engine::foreign::{FrontDoor, ListedContainer, ListedPod};
use runtime::engine::records::definition::ContainerDefinition;
use runtime::engine::records::record::ContainerState;
use serde::Serialize;

use super::container::Containers;
use super::error::CliResult;
use super::filter::{Filter, has_label};
use super::foreign;
use super::output::{Format, ago, command, json, print, table, value};
use super::{Context, EitherPod};
use crate::run::OWN_ERROR;

/// `rust-kata container ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Also those that do not run
    #[arg(long, short)]
    all: bool,

    /// Those alone that fit: id, label, name, pod or status; values of one key are alternatives
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Names alone
    #[arg(long, short)]
    quiet: bool,

    /// Those of one pod
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
}

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
    front_door: String,
    #[serde(skip)]
    shown: String,
}

impl Ls {
    pub(super) fn run(self, context: &Context) -> CliResult<u8> {
        let mut rows = Vec::new();
        let mut code = 0;
        let only = self.pod.as_deref();
        let only = only.map(|pod| context.either_pod(pod)).transpose()?;
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
                Some(EitherPod::Ours(pod)) if *pod.home() == view.home => {}
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
        let others = match only {
            None => foreign::pods(context)?,
            Some(EitherPod::Theirs(pod)) => vec![*pod],
            Some(EitherPod::Ours(_)) => Vec::new(),
        };
        for pod in others {
            for (id, files) in &pod.containers {
                match files {
                    Ok(files) if self.all || files.status().is_live() => {
                        rows.push(their_row(&pod, id, files));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        crate::terminal::say(&format!("{id}: {error}"));
                        code = OWN_ERROR;
                    }
                }
            }
        }
        let filter = Filter::parse(&self.filter, &["id", "label", "name", "pod", "status"])?;
        rows.retain(|row| {
            filter.fits(|key, value| match key {
                "id" => row.id.starts_with(value),
                "label" => has_label(&row.labels, value),
                "name" => row.name == value,
                "pod" => row.pod == value || row.pod_id.starts_with(value),
                _ => row.status.eq_ignore_ascii_case(value),
            })
        });
        if self.quiet {
            let names: String = rows.iter().map(|row| format!("{}\n", row.name)).collect();
            return print(&names).map(|()| code);
        }
        if self.format == Format::Json {
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
            "FRONT DOOR",
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
                row.front_door.clone(),
            ]
        });
        table(&heads, &cells.collect::<Vec<_>>()).map(|()| code)
    }
}

fn row(
    pod: &runtime::engine::records::definition::PodDefinition,
    definition: &ContainerDefinition,
    state: &ContainerState,
) -> Row {
    use runtime::engine::records::definition::Rootfs;
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
        front_door: FrontDoor::RustKata.to_string(),
        shown: format!("{}{code}{since}", state.status),
    }
}

fn their_row(pod: &ListedPod, id: &str, files: &ListedContainer) -> Row {
    let init = files.state.init;
    let ended = init
        .exit
        .map(|exit| format!(" ({}) {}", exit.status, ago(exit.at)));
    let told = files.told();
    Row {
        id: id.to_owned(),
        name: told.name.unwrap_or_else(|| id.to_owned()),
        pod: pod.name().to_owned(),
        pod_id: pod.config.id.clone(),
        namespace: pod.config.namespace.clone(),
        status: files.status().to_string(),
        exit_code: init.exit.map(|exit| exit.status),
        pid: init.pid,
        image: told.image,
        command: told.command,
        restarts: 0,
        labels: told.labels,
        front_door: pod.config.front_door.to_string(),
        shown: format!("{}{}", files.status(), ended.unwrap_or_default()),
    }
}

/// All there is to know about a container.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    pod: &'a str,
    namespace: &'a str,
    front_door: String,
    status: String,
    path: String,
    log: String,
    #[serde(flatten)]
    definition: &'a ContainerDefinition,
    state: &'a ContainerState,
}

pub(super) fn inspect(context: &Context, which: &Containers) -> CliResult<()> {
    let mut all = Vec::new();
    let (ours, others) = which.of_either(context)?;
    for (pod, names) in ours.by_pod(context)? {
        let view = pod.view()?;
        for name in names {
            let files = view.container(&name)?;
            let home = view.home.container(&name)?;
            let inspected = Inspected {
                pod: &view.definition.name,
                namespace: &view.definition.namespace,
                front_door: FrontDoor::RustKata.to_string(),
                status: files.state.status.to_string(),
                path: home.path().display().to_string(),
                log: home.log().display().to_string(),
                definition: &files.definition,
                state: &files.state,
            };
            all.push(value(&inspected)?);
        }
    }
    for theirs in others {
        all.push(theirs.inspect()?);
    }
    json(&all)
}
