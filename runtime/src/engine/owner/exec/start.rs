//! What the start of a further process takes, and what comes of it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use oci_spec::runtime::{BoxBuilder, Process};
use rustix::net::{RecvFlags, recv};
use tokio::sync::mpsc;

use crate::engine::capabilities;
use crate::engine::owner::streams::{Piece, ProcessStreams};
use crate::engine::records::exec::{ExecRequest, PreservedFd};
use crate::engine::users;
use crate::error::{DescriptorError, Error, Result};
use crate::events::Exit;
use crate::stdio::descriptor::Descriptor;

/// What a further process has from its container.
#[derive(Debug)]
pub struct Template {
    /// The container's own process.
    pub process: Process,
    /// Its user as given, unless the process has it.
    pub user: Option<String>,
    /// The layers of its root file system, uppermost first.
    pub layers: Vec<PathBuf>,
}

/// What comes along with the client that starts a process.
#[derive(Debug, Default)]
pub struct Starter {
    /// It has a stdin for it.
    pub stdin: bool,
    /// The other ends of its preserved descriptors.
    pub ends: Vec<UnixStream>,
    /// Width and height of its terminal: the process finds its own so from the start.
    pub size: Option<(u32, u32)>,
    /// A copy of the client's connection.
    pub client: Option<OwnedFd>,
}

/// A process that a client is attached to.
pub struct Connected {
    /// Its streams.
    pub streams: Arc<ProcessStreams>,
    /// Its output, from now on or from the first byte.
    pub output: mpsc::Receiver<Piece>,
    /// How it ends.
    pub exit: BoxFuture<'static, Result<Exit>>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connected").field(&self.streams).finish()
    }
}

impl Starter {
    /// Whether the client has closed its connection. It sends nothing before it is attached.
    pub(in crate::engine) fn client_left(&self) -> bool {
        let Some(client) = &self.client else {
            return false;
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(client, &mut [0u8; 1], flags), Ok((_, 0)))
    }

    /// The process as it begins for this client.
    pub(super) fn begin(&self, mut process: Process) -> Result<Process> {
        if let Some((width, height)) = self.size {
            let size = BoxBuilder::default().width(width).height(height).build();
            let size = size.map_err(Error::encode("the size of a terminal"))?;
            process.set_console_size(Some(size));
        }
        Ok(process)
    }
}

/// The OCI process that was asked for.
pub(super) fn process_of(request: &ExecRequest, template: &Template) -> Result<Process> {
    let mut process = template.process.clone();
    process.set_args(Some(request.command.clone()));
    process.set_env(Some(request.env.clone()));
    if let Some(cwd) = &request.cwd {
        process.set_cwd(cwd.into());
    }
    process.set_terminal(Some(request.terminal));
    if let Some(user) = request.user.as_ref().or(template.user.as_ref()) {
        users::apply(&mut process, &users::look_up(&template.layers, user)?);
    }
    if request.privileged {
        process.set_capabilities(Some(capabilities::all()));
        process.set_no_new_privileges(Some(false));
    }
    Ok(process)
}

/// The preserved descriptors of a process, with the ends that its client gives.
pub(super) fn descriptors(
    name: &str,
    wanted: &[PreservedFd],
    ends: Vec<UnixStream>,
) -> Result<Vec<Descriptor>> {
    if ends.len() != wanted.len() {
        let not_given = DescriptorError::NotGiven {
            process: name.to_owned(),
            wanted: wanted.iter().map(|fd| fd.number).collect(),
            given: ends.len(),
        };
        return Err(not_given.into());
    }
    let both = wanted.iter().zip(ends);
    let both = both.map(|(fd, client)| Descriptor {
        number: fd.number,
        direction: fd.direction,
        client,
    });
    Ok(both.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_leaves_is_noticed() {
        let (near, far) = UnixStream::pair().unwrap();
        let starter = Starter {
            client: Some(near.into()),
            ..Starter::default()
        };
        assert!(!starter.client_left());
        drop(far);
        assert!(starter.client_left());
        assert!(!Starter::default().client_left());
    }
}
