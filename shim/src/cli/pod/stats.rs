//! `rust-kata pod stats`: resource usage of containers and their VMs.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use runtime::engine::time::nanos;
use runtime::engine::usage::ContainerUsage;
use serde::Serialize;

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::foreign;
use crate::cli::output::{json, print, table};
use crate::cli::select::Pod;

/// Moves the cursor home and clears everything below it (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Arguments of `pod stats`.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Pods by name or id [default: all running]
    pods: Vec<String>,

    /// Print one result instead of refreshing a terminal until Ctrl-C
    #[arg(long)]
    no_stream: bool,

    /// Do not clear the terminal between results
    #[arg(long)]
    no_reset: bool,

    /// Seconds between two measurements
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1)]
    interval: u32,

    #[command(flatten)]
    output: OutputFormat,
}

/// The resource usage of a container.
#[derive(Debug, Clone, Serialize)]
struct Row {
    pod: String,
    /// `(vm)`: the VM itself, as the host sees it.
    container: String,
    /// The usage in percent of one CPU.
    cpu_percent: f64,
    cpu_ns: u64,
    memory_bytes: u64,
    /// Missing without a limit.
    memory_limit: Option<u64>,
    pids: Option<u64>,
    read_bytes: u64,
    written_bytes: u64,
    #[serde(skip)]
    at: u64,
}

impl Stats {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let goes_on = !self.no_stream && !self.output.is_json() && stdout().is_terminal();
        let interval = Duration::from_secs(u64::from(self.interval.max(1)));
        let mut before = self.measure(context).await?;
        loop {
            tokio::time::sleep(interval).await;
            let mut rows = self.measure(context).await?;
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

    /// The usage of the named pods, or of all running ones.
    async fn measure(&self, context: &Context) -> CliResult<Vec<Row>> {
        let mut rows = Vec::new();
        for pod in self.pods(context)? {
            match pod.measure().await {
                Ok(found) => rows.extend(found),
                // Without names, a pod that ends meanwhile is left out.
                Err(error) if self.pods.is_empty() => {
                    log::debug!("{}: {error}", pod.name());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    fn pods(&self, context: &Context) -> CliResult<Vec<Pod>> {
        let mut pods: Vec<Pod> = Vec::new();
        for name in &self.pods {
            pods.push(context.any_pod(name)?);
        }
        if self.pods.is_empty() {
            let managed = context.engine.pod_names(context.namespace.as_deref())?;
            pods.extend(managed.into_iter().map(Pod::Managed));
            let foreign = foreign::pods(context)?.into_iter();
            pods.extend(foreign.map(|pod| Pod::Foreign(Box::new(pod))));
        }
        Ok(pods)
    }

    fn show(&self, rows: &[Row]) -> CliResult<()> {
        if self.output.is_json() {
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

/// Sets the rates since the previous measurement.
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

impl Pod {
    fn name(&self) -> &str {
        match self {
            Self::Managed(pod) => pod.name(),
            Self::Foreign(pod) => pod.name(),
        }
    }

    async fn measure(&self) -> CliResult<Vec<Row>> {
        let used = match self {
            Self::Managed(pod) => pod.usage().await?,
            Self::Foreign(pod) => pod.usage().await?,
        };
        let now = nanos(std::time::SystemTime::now());
        let containers = used.containers.into_iter();
        let mut rows: Vec<Row> = containers.map(|used| row(self.name(), used)).collect();
        if used.vm_memory > 0 {
            rows.push(Row {
                pod: self.name().into(),
                container: "(vm)".into(),
                cpu_percent: 0.0,
                cpu_ns: used.vm_cpu_ns,
                memory_bytes: used.vm_memory,
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

fn row(pod: &str, used: ContainerUsage) -> Row {
    Row {
        pod: pod.into(),
        container: used.container,
        cpu_percent: 0.0,
        cpu_ns: used.cpu_ns,
        memory_bytes: used.memory,
        memory_limit: used.memory_limit,
        pids: Some(used.pids),
        read_bytes: used.read,
        written_bytes: used.written,
        at: nanos(used.at),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_same_container_since_its_measurement_before() {
        let at = |pod: &str, container: &str, cpu_ns, at| Row {
            pod: pod.into(),
            container: container.into(),
            cpu_percent: 0.0,
            cpu_ns,
            memory_bytes: 1,
            memory_limit: None,
            pids: None,
            read_bytes: 0,
            written_bytes: 0,
            at,
        };
        let before = [at("p", "a", 1_000, 10_000), at("p", "b", 5_000, 20_000)];
        let mut now = [
            at("p", "a", 3_500, 20_000),
            at("p", "b", 35_000, 40_000),
            at("q", "a", 7_000, 20_000),
            at("p", "new", 7_000, 20_000),
        ];
        rate(&mut now, &before);
        let rates = now.map(|row| row.cpu_percent);
        assert_eq!(rates, [25.0, 150.0, 0.0, 0.0]);

        // A clock or a counter that goes back is no negative rate.
        let mut back = [at("p", "a", 500, 5_000), at("p", "b", 5_001, 20_000)];
        rate(&mut back, &before);
        assert_eq!(back.map(|row| row.cpu_percent), [0.0, 100.0]);
    }

    #[test]
    fn memory_is_told_in_mebibytes() {
        let told = [mib(0), mib(1 << 20), mib(3 << 19)];
        assert_eq!(told, ["0.0 MiB", "1.0 MiB", "1.5 MiB"]);
    }
}
