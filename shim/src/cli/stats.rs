//! `rust-kata pod stats`: what containers and their VMs use.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use protobuf::Message;
use protos::agent::StatsResponse;
use runtime::engine::handle::client::OwnerClient;
use serde::Serialize;

use super::error::CliResult;
use super::foreign;
use super::output::{Format, json, print, table};
use super::{Context, EitherPod};

/// A terminal's cursor goes home and what is below goes away (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// `rust-kata pod stats`.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Pods by name or id [default: all that run]
    pods: Vec<String>,

    /// Show it once; on a terminal it goes on until Ctrl-C
    #[arg(long)]
    no_stream: bool,

    /// Show it again below, instead of in its place
    #[arg(long)]
    no_reset: bool,

    /// Seconds between two looks, from which the rates come
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1)]
    interval: u32,

    /// How to show them; JSON once
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What a container uses.
#[derive(Debug, Clone, Serialize)]
struct Row {
    pod: String,
    /// `(vm)`: the VM itself, as the host sees it.
    container: String,
    /// Of one CPU.
    cpu_percent: f64,
    cpu_ns: u64,
    memory_bytes: u64,
    /// Absent without a limit.
    memory_limit: Option<u64>,
    pids: Option<u64>,
    read_bytes: u64,
    written_bytes: u64,
    #[serde(skip)]
    at: u64,
}

impl Stats {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let goes_on = !self.no_stream && self.format == Format::Table && stdout().is_terminal();
        let interval = Duration::from_secs(u64::from(self.interval.max(1)));
        let mut before = self.look(context).await?;
        loop {
            tokio::time::sleep(interval).await;
            let mut rows = self.look(context).await?;
            rate(&mut rows, &before);
            if goes_on && !self.no_reset {
                print(CLEAR)?;
            }
            self.show(&rows)?;
            if !goes_on {
                return Ok(());
            }
            before = rows;
        }
    }

    /// What the pods use now; those that run, if none is named.
    async fn look(&self, context: &Context) -> CliResult<Vec<Row>> {
        let mut rows = Vec::new();
        for pod in self.pods(context)? {
            match pod.look().await {
                Ok(found) => rows.extend(found),
                // One of many that ends just now is no reason to show none.
                Err(error) if self.pods.is_empty() => {
                    log::debug!("{}: {error}", pod.name());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    fn pods(&self, context: &Context) -> CliResult<Vec<EitherPod>> {
        let mut pods: Vec<EitherPod> = Vec::new();
        for name in &self.pods {
            pods.push(context.either_pod(name)?);
        }
        if self.pods.is_empty() {
            let ours = context.engine.pod_names(context.namespace.as_deref())?;
            pods.extend(ours.into_iter().map(EitherPod::Ours));
            let others = foreign::pods(context)?.into_iter();
            pods.extend(others.map(|pod| EitherPod::Theirs(Box::new(pod))));
        }
        Ok(pods)
    }

    fn show(&self, rows: &[Row]) -> CliResult<()> {
        if self.format == Format::Json {
            return json(&rows);
        }
        let heads = [
            "POD",
            "CONTAINER",
            "CPU %",
            "MEMORY",
            "LIMIT",
            "PIDS",
            "READ",
            "WRITTEN",
        ];
        let cells = rows.iter().map(|row| {
            vec![
                row.pod.clone(),
                row.container.clone(),
                format!("{:.2}", row.cpu_percent),
                mib(row.memory_bytes),
                row.memory_limit.map_or("-".into(), mib),
                row.pids.map_or("-".into(), |pids| pids.to_string()),
                mib(row.read_bytes),
                mib(row.written_bytes),
            ]
        });
        table(&heads, &cells.collect::<Vec<_>>())
    }
}

/// Sets the rates of what was used since the look before.
fn rate(rows: &mut [Row], before: &[Row]) {
    let before: HashMap<_, _> = before
        .iter()
        .map(|row| ((&row.pod, &row.container), row))
        .collect();
    for row in rows {
        if let Some(before) = before.get(&(&row.pod, &row.container)) {
            let passed = row.at.saturating_sub(before.at).max(1) as f64;
            let used = row.cpu_ns.saturating_sub(before.cpu_ns) as f64;
            row.cpu_percent = (used / passed * 10_000.0).round() / 100.0;
        }
    }
}

impl EitherPod {
    fn name(&self) -> &str {
        match self {
            Self::Ours(pod) => pod.name(),
            Self::Theirs(pod) => pod.name(),
        }
    }

    async fn owner(&self) -> CliResult<Option<OwnerClient>> {
        Ok(match self {
            Self::Ours(pod) => pod.owner().await?,
            Self::Theirs(pod) => foreign::owner(pod).await,
        })
    }

    async fn look(&self) -> CliResult<Vec<Row>> {
        let Some(owner) = self.owner().await? else {
            return Ok(Vec::new());
        };
        let answer = owner.stats(Default::default()).await?;
        let now = runtime::engine::time::nanos(std::time::SystemTime::now());
        let mut rows = Vec::new();
        for container in &answer.containers {
            let stats = StatsResponse::parse_from_bytes(&container.stats)
                .map_err(|e| runtime::Error::Internal(format!("The owner's answer: {e}")))?;
            let (name, at) = (&container.container, container.read_at);
            rows.push(row(self.name(), name, &stats, at));
        }
        if answer.vm_memory > 0 {
            rows.push(Row {
                pod: self.name().into(),
                container: "(vm)".into(),
                cpu_percent: 0.0,
                cpu_ns: answer.vm_cpu_ns,
                memory_bytes: answer.vm_memory,
                memory_limit: None,
                pids: None,
                read_bytes: 0,
                written_bytes: 0,
                at: now,
            });
        }
        Ok(rows)
    }
}

fn row(pod: &str, container: &str, stats: &StatsResponse, at: u64) -> Row {
    Row {
        pod: pod.into(),
        container: container.into(),
        cpu_percent: 0.0,
        cpu_ns: stats.cpu.usage_usec * 1000,
        memory_bytes: stats.memory.usage,
        memory_limit: Some(stats.memory.limit).filter(|limit| *limit != u64::MAX),
        pids: Some(stats.pids.current),
        read_bytes: stats.io.iter().map(|io| io.rbytes).sum(),
        written_bytes: stats.io.iter().map(|io| io.wbytes).sum(),
        at,
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
