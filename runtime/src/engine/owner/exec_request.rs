//! The request for a further process of a container, and the process made from it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{BoxBuilder, Process};

use crate::engine::capabilities;
use crate::engine::records::record::{ExecSession, PreservedFd};
use crate::engine::status::ContainerStatus;
use crate::engine::users;
use crate::error::{DescriptorError, Error, Result};
use crate::stdio::descriptor::Descriptor;

/// The request for a further process.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Its id; empty: a generated one.
    pub id: String,
    /// Its command.
    pub command: Vec<String>,
    /// Variables added to those of the container.
    pub env: Vec<String>,
    /// Its directory; `None`: the container's.
    pub cwd: Option<String>,
    /// User and group, by name or id; `None`: the container's.
    pub user: Option<String>,
    /// Whether it has a pty.
    pub terminal: bool,
    /// Whether it has all capabilities.
    pub privileged: bool,
    /// Descriptors of the client that it gets beside its stdio.
    pub preserve_fds: Vec<PreservedFd>,
}

impl ExecRequest {
    /// The record of the process, in a container whose init is `base`.
    pub(crate) fn session(self, base: &Process) -> ExecSession {
        ExecSession {
            command: self.command,
            terminal: self.terminal,
            env: merged(base.env().as_deref().unwrap_or_default(), &self.env),
            user: self.user,
            cwd: self.cwd.unwrap_or_else(|| base.cwd().display().to_string()),
            privileged: self.privileged,
            preserve_fds: self.preserve_fds,
            status: ContainerStatus::Configured,
            pid: 0,
            created: SystemTime::now(),
            exit_code: None,
            finished: None,
        }
    }
}

/// The resources of the client that starts a process.
#[derive(Debug, Default)]
pub struct Starter {
    /// Whether the client has a stdin for it.
    pub stdin: bool,
    /// The other ends of its preserved descriptors.
    pub ends: Vec<UnixStream>,
    /// Width and height of its terminal: the process starts with this size.
    pub size: Option<(u32, u32)>,
}

impl Starter {
    /// The process as it starts for this client.
    pub(crate) fn begin(&self, mut process: Process) -> Result<Process> {
        if let Some((width, height)) = self.size {
            let size = BoxBuilder::default().width(width).height(height).build();
            let size = size.map_err(Error::encode("the size of a terminal"))?;
            process.set_console_size(Some(size));
        }
        Ok(process)
    }
}

/// The OCI process of a session, in a container whose init is `process` and whose files are in
/// `layers`.
pub(crate) fn process_of(
    session: &ExecSession,
    mut process: Process,
    user: Option<&String>,
    layers: &[PathBuf],
) -> Result<Process> {
    process.set_args(Some(session.command.clone()));
    process.set_env(Some(session.env.clone()));
    process.set_cwd(session.cwd.clone().into());
    process.set_terminal(Some(session.terminal));
    if let Some(user) = user {
        users::apply(&mut process, &users::look_up(layers, user)?);
    }
    if session.privileged {
        process.set_capabilities(Some(capabilities::all()));
        process.set_no_new_privileges(Some(false));
    }
    Ok(process)
}

/// The preserved descriptors of a process, with the ends from its client.
pub(crate) fn descriptors(
    name: &str,
    wanted: &[PreservedFd],
    ends: Vec<UnixStream>,
) -> Result<Vec<Descriptor>> {
    if ends.len() != wanted.len() {
        return Err(DescriptorError::NotGiven {
            process: name.to_owned(),
            wanted: wanted.iter().map(|fd| fd.number).collect(),
            given: ends.len(),
        }
        .into());
    }
    let both = wanted.iter().zip(ends);
    let both = both.map(|(fd, client)| Descriptor {
        number: fd.number,
        direction: fd.direction,
        client,
    });
    Ok(both.collect())
}

/// Merges variables; a later one replaces an earlier one of the same name.
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
}
