//! `rust-kata pod`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use hypervisor::HypervisorKind;
use runtime::engine::PodHandle;
use runtime::engine::definition::{ExitPolicy, PodDefinition, SharedNamespace};
use runtime::engine::time::rfc3339;
use runtime::engine::view::PodView;
use runtime::listing::FrontDoor;
use serde::Serialize;

use super::Context;
use super::error::{CliResult, settle};
use super::output::{Format, ago, json, print, table, value};
use super::spec::{bytes, pairs, signal};
use super::stats::Stats;
use super::theirs;
use crate::run::OWN_ERROR;

/// `rust-kata pod`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Creates a pod without containers
    Create(Create),
    /// Starts the containers of pods, each after those that it depends on
    Start(Pods),
    /// Stops the containers of pods, and their VMs
    Stop(Stop),
    /// Stops and starts the containers of pods
    Restart(Stop),
    /// Freezes the containers of pods
    Pause(Pods),
    /// Thaws the containers of pods
    Unpause(Pods),
    /// Sends a signal to the containers of pods
    Kill(Kill),
    /// Removes pods
    Rm(Rm),
    /// Lists pods
    #[command(visible_alias = "ps", alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about pods, as JSON
    Inspect(Pods),
    /// Shows what containers and their VMs use
    Stats(Stats),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name [default: made up]
    #[arg(long, short)]
    name: Option<String>,

    /// Its host name [default: its name]
    #[arg(long)]
    hostname: Option<String>,

    /// A label
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Namespaces that its containers share: net, ipc, uts, or none
    #[arg(long, value_name = "LIST", default_value = "net,ipc,uts")]
    share: String,

    /// Whether the pod stays up without running containers
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    infra: bool,

    /// When its last container has ended: continue or stop
    #[arg(long, value_name = "POLICY", default_value = "continue")]
    exit_policy: String,

    /// The cgroup of the host below which its own is made
    #[arg(long, value_name = "PATH|SLICE")]
    cgroup_parent: Option<PathBuf>,

    /// CPUs that all its containers may use, as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// Memory that all its containers may use: a number with k, m or g
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// Memory of the VM itself, in MiB [default: as configured]
    #[arg(long, value_name = "MiB")]
    vm_memory: Option<u32>,

    /// Virtual CPUs of the VM [default: as configured]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// What runs the VM: auto, kvm or qemu [default: as configured]
    #[arg(long, value_name = "KIND")]
    hypervisor: Option<HypervisorKind>,
}

/// Which pods.
#[derive(Debug, Args)]
pub(super) struct Pods {
    /// Pods by name, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,

    /// All pods
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    pods: Pods,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    #[command(flatten)]
    pods: Pods,

    /// The signal
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    pods: Pods,

    /// Stop and remove its containers; also for a pod whose files are damaged
    #[arg(long, short)]
    force: bool,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Names alone
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<u8> {
    match command {
        Command::Create(create) => return create.run(context),
        Command::Ls(ls) => return ls.run(context),
        Command::Inspect(pods) => return inspect(context, &pods),
        Command::Stats(stats) => stats.run(context).await,
        Command::Start(pods) => {
            each(context, &pods, async |pod| {
                settle(pod.start(&[], true).await?)
            })
            .await
        }
        Command::Stop(stop) => {
            each(context, &stop.pods, async |pod| {
                settle(pod.stop(&[], stop.time).await?)
            })
            .await
        }
        Command::Restart(stop) => {
            let again = async |pod: &PodHandle| settle(pod.restart(&[], stop.time).await?);
            each(context, &stop.pods, again).await
        }
        Command::Pause(pods) => {
            each(context, &pods, async |pod| settle(pod.pause(&[]).await?)).await
        }
        Command::Unpause(pods) => {
            each(context, &pods, async |pod| settle(pod.unpause(&[]).await?)).await
        }
        Command::Kill(kill) => {
            let send =
                async |pod: &PodHandle| settle(pod.kill(&[], kill.signal as u32, false).await?);
            each(context, &kill.pods, send).await
        }
        Command::Rm(rm) => {
            let remove = async |pod: &PodHandle| {
                pod.remove(rm.force, rm.time).await?;
                Ok(Vec::new())
            };
            each(context, &rm.pods, remove).await
        }
    }?;
    Ok(0)
}

/// Does something to each pod, whatever happens to the others, and tells the
/// names of those for which it worked.
async fn each(
    context: &Context,
    pods: &Pods,
    work: impl AsyncFn(&PodHandle) -> CliResult<Vec<String>>,
) -> CliResult<()> {
    let mut last = None;
    for pod in pods.handles(context) {
        let (name, result) = match pod {
            Ok(pod) => (pod.name().to_owned(), work(&pod).await),
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

impl Pods {
    fn handles(&self, context: &Context) -> Vec<Result<PodHandle, (String, crate::error::Error)>> {
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
}

impl Create {
    fn run(self, context: &Context) -> CliResult<u8> {
        let mut pod = PodDefinition::new(context.new_namespace(), &self.name.unwrap_or_default());
        pod.hostname = self.hostname;
        pod.labels = pairs(&self.label, "label")?;
        pod.create_command = std::env::args().collect();
        pod.infra = self.infra;
        pod.share = shared(&self.share)?;
        if !self.infra && self.share == "net,ipc,uts" {
            pod.share.clear();
        }
        pod.exit_policy = match self.exit_policy.as_str() {
            "continue" => ExitPolicy::Continue,
            "stop" => ExitPolicy::Stop,
            other => {
                let problem = format!("--exit-policy {other}: it is continue or stop");
                return Err(runtime::Error::Invalid(problem).into());
            }
        };
        pod.cgroup_parent = self.cgroup_parent;
        pod.resources.cpu_quota = self.cpus.map(|cpus| (cpus * 100_000.0) as i64);
        pod.resources.memory = self.memory.as_deref().map(bytes).transpose()?;
        pod.memory_mib = self.vm_memory;
        pod.vcpus = self.vcpus;
        pod.hypervisor = self.hypervisor;
        let made = context.engine.create_pod(pod)?;
        print(&format!("{}\n", made.name()))?;
        Ok(0)
    }
}

fn shared(list: &str) -> Result<std::collections::BTreeSet<SharedNamespace>, runtime::Error> {
    let words = list
        .split(',')
        .filter(|word| !word.is_empty() && *word != "none");
    words
        .map(|word| match word {
            "net" => Ok(SharedNamespace::Net),
            "ipc" => Ok(SharedNamespace::Ipc),
            "uts" => Ok(SharedNamespace::Uts),
            other => Err(runtime::Error::Invalid(format!(
                "--share {other}: containers can share net, ipc and uts, or none"
            ))),
        })
        .collect()
}

/// A pod in a list.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    namespace: String,
    status: String,
    created: String,
    containers: usize,
    infra: bool,
    labels: BTreeMap<String, String>,
    front_door: String,
}

impl Ls {
    fn run(self, context: &Context) -> CliResult<u8> {
        let mut rows = Vec::new();
        let mut created: Vec<Option<SystemTime>> = Vec::new();
        let mut code = 0;
        for pod in context.engine.pods(context.namespace.as_deref())? {
            let row = match pod {
                Ok(view) => {
                    created.push(Some(view.definition.created));
                    row(&view)
                }
                Err(bad) => {
                    created.push(None);
                    crate::terminal::say(&bad.error.to_string());
                    code = OWN_ERROR;
                    Row {
                        id: String::new(),
                        name: bad.home.name().into(),
                        namespace: bad.home.namespace().into(),
                        status: "Error".into(),
                        created: String::new(),
                        containers: 0,
                        infra: false,
                        labels: BTreeMap::new(),
                        front_door: FrontDoor::RustKata.to_string(),
                    }
                }
            };
            rows.push(row);
        }
        for pod in theirs::pods(context)? {
            let parts = pod.containers.values().flatten();
            let since = parts.map(|part| part.record.created).min();
            created.push(since);
            rows.push(Row {
                id: pod.config.id.clone(),
                name: pod.config.id.clone(),
                namespace: pod.config.namespace.clone(),
                status: pod.status().to_string(),
                created: since.map(rfc3339).unwrap_or_default(),
                containers: pod.containers.len(),
                infra: false,
                labels: pod.config.labels.clone().into_iter().collect(),
                front_door: pod.config.front_door.to_string(),
            });
        }
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
            let cells = rows.iter().zip(created).map(|(row, created)| {
                vec![
                    row.id.chars().take(12).collect(),
                    row.name.clone(),
                    row.namespace.clone(),
                    row.status.clone(),
                    created.map(ago).unwrap_or_default(),
                    row.containers.to_string(),
                    row.front_door.clone(),
                ]
            });
            table(&heads, &cells.collect::<Vec<_>>())?;
        }
        Ok(code)
    }
}

fn row(view: &PodView) -> Row {
    let definition = &view.definition;
    Row {
        id: definition.id.clone(),
        name: definition.name.clone(),
        namespace: definition.namespace.clone(),
        status: view.status().to_string(),
        created: rfc3339(definition.created),
        containers: view.containers.len(),
        infra: definition.infra,
        labels: definition.labels.clone(),
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
    state: &'a runtime::engine::record::PodState,
    containers: Vec<InspectedContainer<'a>>,
}

#[derive(Debug, Serialize)]
struct InspectedContainer<'a> {
    name: &'a str,
    id: Option<&'a str>,
    status: String,
}

fn inspect(context: &Context, pods: &Pods) -> CliResult<u8> {
    let mut all = Vec::new();
    for pod in pods.handles(context) {
        let pod = match pod {
            Ok(pod) => pod,
            Err((name, error)) => match theirs::pod(context, &name)? {
                Some(pod) => {
                    all.push(theirs::inspect_pod(&pod)?);
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
