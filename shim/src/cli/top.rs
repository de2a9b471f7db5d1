//! `rust-kata container top` and `pod top`: the processes of containers, as the
//! guest numbers them.

use clap::Args;
use protos::agent::Process;
use serde::Serialize;

use super::container::One;
use super::error::CliResult;
use super::output::{Format, json, table};
use super::{Context, Either};

/// `rust-kata pod top`.
#[derive(Debug, Args)]
pub(super) struct PodTop {
    /// A pod by name, id or the beginning of an id
    pod: String,

    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const HEADS: [&str; 6] = ["PID", "PPID", "UID", "CPU s", "MiB", "COMMAND"];

/// A process.
#[derive(Debug, Serialize)]
struct Row {
    container: String,
    pid: u32,
    parent: u32,
    uid: u32,
    cpu_ms: u64,
    resident_bytes: u64,
    command: String,
}

impl Row {
    fn new(container: &str, process: Process) -> Self {
        Self {
            container: container.to_owned(),
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            cpu_ms: process.cpu_ms,
            resident_bytes: process.resident_bytes,
            command: process.command,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.pid.to_string(),
            self.parent.to_string(),
            self.uid.to_string(),
            format!("{:.2}", self.cpu_ms as f64 / 1000.0),
            format!("{:.1}", self.resident_bytes as f64 / f64::from(1 << 20)),
            self.command.clone(),
        ]
    }
}

/// Lists the processes of one container.
pub(super) async fn top(context: &Context, one: &One) -> CliResult<()> {
    let (name, processes) = match context.either(&one.container)? {
        Either::Ours(pod, name) => {
            let processes = pod.processes(&name).await?;
            (name, processes)
        }
        Either::Theirs(theirs) => {
            let owner = theirs.owner().await?;
            let processes = owner.list_processes(&theirs.container).await?;
            (theirs.container, processes)
        }
    };
    let rows = processes.into_iter();
    let cells = rows.map(|process| Row::new(&name, process).cells());
    table(&HEADS, &cells.collect::<Vec<_>>())
}

/// Lists the processes of all containers of a pod that run.
pub(super) async fn top_of(context: &Context, args: &PodTop) -> CliResult<()> {
    let pod = context.pod(&args.pod)?;
    let running = pod.view()?.in_state(|status| status.is_running());
    let mut rows = Vec::new();
    for name in running {
        match pod.processes(&name).await {
            Ok(processes) => rows.extend(processes.into_iter().map(|p| Row::new(&name, p))),
            // It has ended meanwhile.
            Err(runtime::Error::WrongState { .. }) => {}
            Err(e) if e.kind() == runtime::ErrorKind::FailedPrecondition => {}
            Err(e) => return Err(e.into()),
        }
    }
    if args.format == Format::Json {
        return json(&rows);
    }
    let heads: Vec<&str> = ["CONTAINER"].into_iter().chain(HEADS).collect();
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.container.clone()];
        cells.extend(row.cells());
        cells
    });
    table(&heads, &cells.collect::<Vec<_>>())
}
