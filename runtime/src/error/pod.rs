//! Errors of pods: their definitions, their devices, and their guests.

use std::io;
use std::path::PathBuf;

/// The reason why a directory cannot hold state.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot hold state: {problem}", dir.display())]
pub struct StateDirError {
    /// The directory.
    pub dir: PathBuf,
    /// The problem.
    pub problem: StateDirProblem,
}

/// The problem with a directory for state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateDirProblem {
    /// It is open to other users, and has other contents than state.
    #[error(
        "other users may enter it, and it has other files than state in it; \
         give state a directory of its own, or close this one (chmod 700)"
    )]
    OtherFiles,
    /// It belongs to another user.
    #[error("it belongs to user {uid}; give state a directory of its own")]
    Owner {
        /// Its owner.
        uid: u32,
    },
    /// Other users may write in it.
    #[error("other users may write in it; give state a directory of its own")]
    Writable,
    /// It is a directory of the host, such as `/run`.
    #[error("the whole host uses it; give state a directory of its own")]
    Shared,
}

/// The reason why dependencies of containers are not valid.
#[derive(Debug, thiserror::Error)]
pub enum DependencyError {
    /// A container depends on one that is not in its pod.
    #[error("container {container} depends on {on}, which is not in its pod: create {on} first")]
    Missing {
        /// The container.
        container: String,
        /// The missing container.
        on: String,
    },
    /// They wait for each other.
    #[error(
        "the containers depend on each other in a circle: {}{}",
        if *no_start { "no container of the pod is without a dependency: " } else { "" },
        path.join(" → ")
    )]
    Circle {
        /// The containers of the circle in order; the first one is repeated at the end.
        path: Vec<String>,
        /// Whether every container of the pod has a dependency.
        no_start: bool,
    },
}

/// The reason why a container cannot run as a user of its image.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The image does not have the user or group.
    #[error("no {what} {name:?} in {file} of the container: give another name, or a number")]
    Unknown {
        /// "user" or "group".
        what: &'static str,
        /// Its name.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// An id in the image's file is not a number.
    #[error("invalid id {id:?} in {file} of the container: expected 0 to {}", u32::MAX - 1)]
    Id {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// The text in place of the id.
        id: String,
    },
}

/// The reason why a block device of the host cannot be attached for a container.
#[derive(Debug, thiserror::Error)]
#[error("cannot use block device {major}:{minor} of the host (for {}): {problem}", path.display())]
pub struct DeviceError {
    /// Its path in the container.
    pub path: PathBuf,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// The problem.
    pub problem: DeviceProblem,
}

/// The problem with a block device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceProblem {
    /// The kernel does not know the device.
    #[error("{0}")]
    Unknown(#[source] io::Error),
    /// Its entry in `/sys` has no name.
    #[error("its name in /sys is missing")]
    NoName,
    /// It cannot be opened.
    #[error("cannot open {}: {source}", node.display())]
    Open {
        /// Its node in `/dev`.
        node: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The node with its name belongs to another device.
    #[error("{} is another device", node.display())]
    Changed {
        /// The node in `/dev`.
        node: PathBuf,
    },
    /// Another container of the pod uses it read-only.
    #[error("it is read-only in another container of the pod")]
    ReadOnly,
}

/// A guest's wrong behaviour.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It does not find an attached disk.
    #[error("the guest did not find the attached disk: it answered {name:?}")]
    Disk {
        /// The disk that it names instead.
        name: String,
    },
    /// It has more or less memory than its containers' limits require.
    #[error("the guest has {plugged} MiB of plugged memory: expected {wanted} MiB")]
    Memory {
        /// The plugged memory.
        plugged: u32,
        /// The memory for the limits.
        wanted: u32,
    },
    /// It does not accept a stream of a process.
    #[error("the guest does not accept a stdio stream: {0}")]
    Stream(#[source] io::Error),
}
