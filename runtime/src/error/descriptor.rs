//! Errors of descriptors that a client passes to a process.

use std::io;

use super::ErrorKind;

/// The kinds of files that a VM supports; the end of several messages.
const STREAMS: &str = "a VM can be given files, pipes, terminals and stream sockets only";

/// The reason why a descriptor cannot be passed to a process.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Its number is too low or too high.
    #[error("cannot pass descriptor {number}: expected {first} to {last}")]
    OutOfRange {
        /// The descriptor.
        number: u32,
        /// The lowest number.
        first: u32,
        /// The highest number.
        last: u32,
    },
    /// It is given more than once.
    #[error("descriptor {number} is given twice")]
    Repeated {
        /// The descriptor.
        number: u32,
    },
    /// There are too many.
    #[error("cannot pass {count} descriptors: at most {most} are allowed")]
    TooMany {
        /// The number of descriptors given.
        count: usize,
        /// The largest number.
        most: usize,
    },
    /// A process is started without its descriptors, or with other ones.
    #[error(
        "{process} needs descriptors {wanted:?} of the client that starts it, and is given {given}: start it attached, not detached"
    )]
    NotGiven {
        /// The container or session.
        process: String,
        /// The numbers that it was created with.
        wanted: Vec<u32>,
        /// The number of descriptors given.
        given: usize,
    },
    /// The process runs already.
    #[error("{process} is running: descriptors can be passed at its start only")]
    Running {
        /// The container or session.
        process: String,
    },
    /// It is not open.
    #[error(
        "descriptor {number} is not open: open it, as {number}<FILE or {number}>FILE do in a shell, or give fewer"
    )]
    NotOpen {
        /// The descriptor.
        number: u32,
    },
    /// It is not of a kind that can be a stream of bytes.
    #[error("cannot pass descriptor {number}, {found}: {STREAMS}")]
    NoStream {
        /// The descriptor.
        number: u32,
        /// "a directory or a path only".
        found: &'static str,
    },
    /// It is a file or a pipe that is open for reading and writing.
    #[error(
        "cannot pass descriptor {number}, which is open for reading and writing: open it for one of the \
         two, as {number}<FILE and {number}>FILE do in a shell"
    )]
    BothWays {
        /// The descriptor.
        number: u32,
    },
    /// A system call on it failed.
    #[error("cannot pass descriptor {number}: {source}")]
    System {
        /// The descriptor.
        number: u32,
        /// The cause.
        source: io::Error,
    },
    /// The client's end of its stream cannot be used.
    #[error("cannot use the client's end of descriptor {number}: {source}")]
    Client {
        /// The descriptor.
        number: u32,
        /// The cause.
        source: io::Error,
    },
}

impl DescriptorError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Client { .. } => ErrorKind::Internal,
            _ => ErrorKind::InvalidArgument,
        }
    }
}
