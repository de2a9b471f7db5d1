//! Errors of pods: what they are defined to be, their devices, and their guests.

use std::io;
use std::path::PathBuf;

/// Why a directory cannot hold state.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot hold state: {problem}", dir.display())]
pub struct StateDirError {
    /// The directory.
    pub dir: PathBuf,
    /// The problem.
    pub problem: StateDirProblem,
}

/// What is wrong with a directory that is to hold state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateDirProblem {
    /// It is open to other users, and not for state alone.
    #[error(
        "other users may enter it, and it has other files than state in it; \
         give state a directory of its own, or close this one (chmod 700)"
    )]
    OtherFiles,
    /// It is another user's.
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

/// Why containers cannot depend on each other as defined.
#[derive(Debug, thiserror::Error)]
pub enum DependencyError {
    /// A container depends on one that its pod does not have.
    #[error("container {container} depends on {on}, which is not in its pod")]
    Missing {
        /// The container.
        container: String,
        /// What it depends on.
        on: String,
    },
    /// They wait for each other.
    #[error(
        "the containers depend on each other in a circle: {}{}",
        if *no_start { "no container of the pod is without a dependency: " } else { "" },
        path.join(" → ")
    )]
    Circle {
        /// The containers of the circle in order, the first also at the end.
        path: Vec<String>,
        /// All containers of the pod depend on another one.
        no_start: bool,
    },
}

/// Why a container cannot run as a user of its image.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The image has no such user or group.
    #[error("no {what} {name:?} in {file} of the container: give another name, or a number")]
    Unknown {
        /// "user" or "group".
        what: &'static str,
        /// Its name.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// The image's file has no number where one must be.
    #[error("invalid id {id:?} in {file} of the container: expected 0 to {}", u32::MAX - 1)]
    Id {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// What is there.
        id: String,
    },
}

/// Why a block device of the host cannot be given to a container.
#[derive(Debug, thiserror::Error)]
#[error("cannot use block device {major}:{minor} of the host (for {}): {problem}", path.display())]
pub struct DeviceError {
    /// Its path in the container.
    pub path: PathBuf,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// The problem.
    pub problem: DeviceProblem,
}

/// What is wrong with a block device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceProblem {
    /// The kernel has no such device.
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
    /// The node of its name is of another device.
    #[error("{} is another device", node.display())]
    Changed {
        /// The node in `/dev`.
        node: PathBuf,
    },
    /// Another container of the pod has it read-only.
    #[error("it is read-only in another container of the pod")]
    ReadOnly,
}

/// What a guest did that it should not have done.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It does not find a disk that was attached.
    #[error("the guest did not find the attached disk: it answered {name:?}")]
    Disk {
        /// The disk that it names.
        name: String,
    },
    /// It keeps more or less memory than its containers' limits ask for.
    #[error("the guest has {plugged} MiB of plugged memory: expected {wanted} MiB")]
    Memory {
        /// What is plugged.
        plugged: u32,
        /// What the limits ask for.
        wanted: u32,
    },
    /// It does not accept a stream of a process.
    #[error("the guest does not accept a stdio stream: {0}")]
    Stream(#[source] io::Error),
}
