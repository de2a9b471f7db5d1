//! Further processes of containers: their requests, and their records on disk.

use std::time::SystemTime;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::engine::status::ContainerStatus;
use crate::stdio::descriptor::Direction;

/// The request for a further process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Its command.
    pub command: Vec<String>,
    /// Whether it has a pty.
    pub terminal: bool,
    /// Variables in addition to the container's; in a record, all variables.
    pub env: Vec<String>,
    /// Name or id, and group; `None` for the container's user.
    pub user: Option<String>,
    /// Its directory; `None` for the container's directory.
    pub cwd: Option<String>,
    /// Whether it has all capabilities.
    pub privileged: bool,
    /// Descriptors of the client that it gets beside its stdio.
    #[serde(default)]
    pub preserve_fds: Vec<PreservedFd>,
}

impl ExecRequest {
    /// Adds the settings that the process inherits from `own`, the container's process.
    pub(crate) fn complete(&mut self, own: &Process) {
        self.env = merged(own.env().as_deref().unwrap_or_default(), &self.env);
        let cwd = || own.cwd().display().to_string();
        self.cwd.get_or_insert_with(cwd);
    }
}

/// A further process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSession {
    /// Its request.
    #[serde(flatten)]
    pub request: ExecRequest,
    /// Its status.
    pub status: ContainerStatus,
    /// Its pid on the host; 0 without a process.
    pub pid: u32,
    /// The time of its creation.
    pub created: SystemTime,
    /// Its exit code, if it has ended.
    pub exit_code: Option<u32>,
    /// The time of its end, if it has ended.
    pub finished: Option<SystemTime>,
}

impl ExecSession {
    /// A session without a process.
    pub(crate) fn new(request: ExecRequest, status: ContainerStatus) -> Self {
        Self {
            request,
            status,
            pid: 0,
            created: SystemTime::now(),
            exit_code: None,
            finished: None,
        }
    }
}

/// A descriptor of the client that the started process also gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreservedFd {
    /// Its number.
    pub number: u32,
    /// The direction of its data, from the view of the process.
    pub direction: Direction,
}

/// Merges variables; later ones replace earlier ones of the same name.
fn merged(first: &[String], second: &[String]) -> Vec<String> {
    let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for pair in first.iter().chain(second) {
        match merged.iter_mut().find(|there| name(there) == name(pair)) {
            Some(there) => *there = pair.clone(),
            None => merged.push(pair.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            merged(&list("A=1 B=2"), &list("A=3 C=4")),
            list("A=3 B=2 C=4")
        );
    }

    /// The format of a session in builds up to 79015a4.
    #[test]
    fn sessions_of_earlier_builds_are_read() {
        let text = r#"{ "command": ["true"], "terminal": false, "env": ["A=b"], "user": null,
            "cwd": "/", "privileged": true, "status": "exited", "pid": 0,
            "created": { "secs_since_epoch": 7, "nanos_since_epoch": 0 },
            "exit_code": 3, "finished": null }"#;
        let session: ExecSession = serde_json::from_str(text).unwrap();
        let request = &session.request;
        assert_eq!(request.cwd.as_deref(), Some("/"));
        assert_eq!((&request.user, request.privileged), (&None, true));
        assert_eq!(session.exit_code, Some(3));
        let again = serde_json::to_value(&session).unwrap();
        assert_eq!(
            (&again["command"][0], &again["cwd"]),
            (&"true".into(), &"/".into())
        );
    }
}
