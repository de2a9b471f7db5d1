//! The processes of containers as rows of a table, with the guest's pids.

use runtime::engine::usage::ContainerProcess;
use serde::Serialize;

pub(crate) const HEADS: [&str; 6] = ["PID", "PPID", "UID", "CPU s", "MiB", "COMMAND"];

/// A process.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessRow {
    pub(crate) container: String,
    pid: u32,
    parent: u32,
    uid: u32,
    cpu_ms: u64,
    resident_bytes: u64,
    command: String,
}

impl ProcessRow {
    pub(crate) fn new(container: &str, process: ContainerProcess) -> Self {
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

    pub(crate) fn cells(&self) -> Vec<String> {
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
