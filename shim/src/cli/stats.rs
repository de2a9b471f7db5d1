//! `rust-kata pod stats`: what containers and their VMs use.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use protobuf::Message;
use protos::agent::StatsResponse;
use runtime::engine::PodHandle;
use runtime::engine::client::OwnerClient;
use runtime::listing::ListedPod;
use serde::Serialize;

use super::Context;
use super::error::CliResult;
use super::output::{Format, json, table};
use super::theirs;

/// Between two looks, from which the rates come.
const INTERVAL: Duration = Duration::from_secs(1);

/// `rust-kata pod stats`.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Pods by name or id [default: all that run]
    pods: Vec<String>,

    /// How to show them
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
        let mut pods: Vec<Measured> = Vec::new();
        for name in &self.pods {
            pods.push(match theirs::pod(context, name)? {
                Some(pod) if context.pod(name).is_err() => Measured::Theirs(Box::new(pod)),
                _ => Measured::Ours(context.pod(name)?),
            });
        }
        if self.pods.is_empty() {
            let ours = context.engine.pod_names(context.namespace.as_deref())?;
            pods.extend(ours.into_iter().map(Measured::Ours));
            let others = theirs::pods(context)?;
            pods.extend(
                others
                    .into_iter()
                    .map(|pod| Measured::Theirs(Box::new(pod))),
            );
        }
        let first = look(&pods).await?;
        tokio::time::sleep(INTERVAL).await;
        let mut rows = look(&pods).await?;
        let before: HashMap<_, _> = first
            .into_iter()
            .map(|row| ((row.pod.clone(), row.container.clone()), row))
            .collect();
        for row in &mut rows {
            if let Some(before) = before.get(&(row.pod.clone(), row.container.clone())) {
                let passed = row.at.saturating_sub(before.at).max(1) as f64;
                let used = row.cpu_ns.saturating_sub(before.cpu_ns) as f64;
                row.cpu_percent = (used / passed * 10_000.0).round() / 100.0;
            }
        }
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

/// A pod to look at.
enum Measured {
    Ours(PodHandle),
    Theirs(Box<ListedPod>),
}

impl Measured {
    fn name(&self) -> &str {
        match self {
            Self::Ours(pod) => pod.name(),
            Self::Theirs(pod) => &pod.config.id,
        }
    }

    async fn owner(&self) -> CliResult<Option<OwnerClient>> {
        Ok(match self {
            Self::Ours(pod) => pod.owner().await?,
            Self::Theirs(pod) => theirs::owner(pod).await,
        })
    }
}

async fn look(pods: &[Measured]) -> CliResult<Vec<Row>> {
    let mut rows = Vec::new();
    for pod in pods {
        let Some(owner) = pod.owner().await? else {
            continue;
        };
        let answer = owner.stats(Default::default()).await?;
        let now = runtime::engine::time::nanos(std::time::SystemTime::now());
        for container in &answer.containers {
            let stats = StatsResponse::parse_from_bytes(&container.stats)
                .map_err(|e| runtime::Error::Internal(format!("The owner's answer: {e}")))?;
            rows.push(row(
                pod.name(),
                &container.container,
                &stats,
                container.read_at,
            ));
        }
        if answer.vm_memory > 0 {
            rows.push(Row {
                pod: pod.name().into(),
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
    }
    Ok(rows)
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
