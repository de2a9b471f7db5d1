//! Small conversions between rust-kata's types and containerd's messages.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageField, MessageFull};
use runtime::{Endpoint, ProcessIo, Status};

/// A time of the host's clock.
pub fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
        ..Timestamp::default()
    })
}

/// A message with its full name as type URL, as with containerd's `typeurl`.
pub fn any<M: MessageFull>(message: &M) -> protobuf::Result<Any> {
    Ok(Any {
        type_url: M::descriptor().full_name().to_owned(),
        value: message.write_to_bytes()?,
        ..Any::default()
    })
}

/// containerd's name of a status.
pub fn status(status: Status) -> api::Status {
    match status {
        Status::Creating | Status::Created | Status::Starting => api::Status::CREATED,
        Status::Running => api::Status::RUNNING,
        Status::Paused => api::Status::PAUSED,
        Status::Stopped => api::Status::STOPPED,
    }
}

/// A mount of a container's root file system.
pub fn mount(mount: &api::Mount) -> runtime::Mount {
    runtime::Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// The stdio of a task or an exec.
///
/// # Errors
/// The URI, if its scheme is not supported.
pub fn io(
    stdin: &str,
    stdout: &str,
    stderr: &str,
    terminal: bool,
) -> Result<ProcessIo, UnknownScheme> {
    Ok(ProcessIo {
        stdin: endpoint(stdin)?,
        stdout: endpoint(stdout)?,
        stderr: if terminal {
            Endpoint::None
        } else {
            endpoint(stderr)?
        },
        terminal,
        descriptors: Vec::new(),
    })
}

/// A stdio URI that only other shims support (`binary://…`).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unsupported stdio {0:?}: expected a path, fifo:// or file://")]
pub struct UnknownScheme(String);

fn endpoint(uri: &str) -> Result<Endpoint, UnknownScheme> {
    if uri.is_empty() {
        return Ok(Endpoint::None);
    }
    let path = match uri.split_once("://") {
        None => uri,
        Some(("fifo", path)) => path,
        // The runtime supports this scheme: it creates the file and appends to it.
        Some(("file", _)) => uri,
        Some(_) => return Err(UnknownScheme(uri.to_owned())),
    };
    Ok(Endpoint::Path(PathBuf::from(path)))
}

/// A path as text for a message.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::events::task::TaskExit;
    use std::time::Duration;

    #[test]
    fn type_urls_are_plain_names() {
        let any = any(&TaskExit::new()).unwrap();
        assert_eq!(any.type_url, "containerd.events.TaskExit");
    }

    #[test]
    fn timestamps() {
        let at = timestamp(UNIX_EPOCH + Duration::new(7, 9));
        assert_eq!((at.seconds, at.nanos), (7, 9));
    }

    #[test]
    fn endpoints() {
        assert!(matches!(endpoint(""), Ok(Endpoint::None)));
        for uri in ["/a/b", "fifo:///a/b"] {
            assert!(matches!(endpoint(uri), Ok(Endpoint::Path(p)) if p == Path::new("/a/b")));
        }
        assert!(
            matches!(endpoint("file:///a"), Ok(Endpoint::Path(p)) if p == Path::new("file:///a"))
        );
        assert_eq!(
            endpoint("binary:///bin/x?a=b").err(),
            Some(UnknownScheme("binary:///bin/x?a=b".into()))
        );
    }
}
