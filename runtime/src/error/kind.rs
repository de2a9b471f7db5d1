//! The class of an error.

/// The class of an error, named as the gRPC status codes; the shim uses the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The pod, container or process does not exist.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The object's state does not allow the operation.
    FailedPrecondition,
    /// The request, the bundle or the configuration is wrong.
    InvalidArgument,
    /// The operation is not supported.
    Unimplemented,
    /// The agent or the VM did not answer in time.
    DeadlineExceeded,
    /// The VM or the agent is gone.
    Unavailable,
    /// Any other error.
    Internal,
}

impl ErrorKind {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::InvalidArgument,
        Self::Unimplemented,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::Internal,
    ];
}
