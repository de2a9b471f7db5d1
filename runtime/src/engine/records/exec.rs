//! Further processes of containers: as they are asked for, and as they are on disk.

use std::time::SystemTime;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::engine::status::ContainerStatus;
use crate::stdio::descriptor::Direction;

/// A further process, as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Its command.
    pub command: Vec<String>,
    /// It has a pty.
    pub terminal: bool,
    /// Variables over those of the container; once it is recorded, all of them.
    pub env: Vec<String>,
    /// Name or id, and group; none: that of the container.
    pub user: Option<String>,
    /// Its directory; none: that of the container.
    pub cwd: Option<String>,
    /// It has all capabilities.
    pub privileged: bool,
    /// Descriptors of the client that it is given beside its stdio.
    #[serde(default)]
    pub preserve_fds: Vec<PreservedFd>,
}

impl ExecRequest {
    /// Adds what the process has from its container, whose own is `own`.
    pub(crate) fn complete(&mut self, own: &Process) {
        self.env = merged(own.env().as_deref().unwrap_or_default(), &self.env);
        let cwd = || own.cwd().display().to_string();
        self.cwd.get_or_insert_with(cwd);
    }
}

/// A further process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSession {
    /// What it was asked to be.
    #[serde(flatten)]
    pub request: ExecRequest,
    /// Where it stands.
    pub status: ContainerStatus,
    /// Its pid on the host; 0 while it has none.
    pub pid: u32,
    /// When it was created.
    pub created: SystemTime,
    /// How it ended.
    pub exit_code: Option<u32>,
    /// When it ended.
    pub finished: Option<SystemTime>,
}

impl ExecSession {
    /// One that has no process yet.
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

/// A descriptor of the client that starts a process, which the process has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreservedFd {
    /// Its number.
    pub number: u32,
    /// Which way its bytes go, as the process sees it.
    pub direction: Direction,
}

/// Variables, the later ones instead of earlier ones of the same name.
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

    /// A session as builds up to 79015a4 wrote it.
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
