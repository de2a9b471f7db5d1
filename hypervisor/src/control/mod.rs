//! The protocol between the owner of a VM and its `rust-kata-vmm`.
//!
//! One `SOCK_SEQPACKET` socket pair, inherited when the process is started. Each
//! packet is one JSON message of at most [`MAX_MESSAGE`] bytes; descriptors travel
//! with it. The owner asks, the VMM answers each request once, in order:
//!
//! ```text
//! owner                             rust-kata-vmm
//!   │ Hello{version}          ──▶      │
//!   │      ◀──       Hello{version}    │
//!   │ Serve{devices}+fds      ──▶      │   for QEMU: one vhost-user socket per device
//!   │  or Build{machine,devices}+fds   │   for KVM: what the machine is made of
//!   │      ◀──                Done     │
//!   │ Run / Pause / PlugMemory ─▶      │   KVM only
//!   │ Attach{device}+fds      ──▶      │   KVM only: a disk or network device more
//!   │      ◀──  Attached{slot}         │
//!   │ Detach{slot}            ──▶      │
//!   │ Status / Stop           ──▶      │
//!   │      ◀──    Ended{how}           │   unasked, when the guest has ended; the last word
//! ```
//!
//! The VMM ends when the channel closes.

mod client;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod packet;
mod protocol;
mod server;

pub use client::Client;
pub use packet::{MAX_FDS, MAX_MESSAGE};
pub use protocol::{DeviceConfig, DeviceStatus, Request, Response, VERSION, VmmStatus};
pub use server::{Attached, Server, Service};

/// An error of the control channel.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The other side closed the channel.
    #[error("the control channel was closed")]
    Closed,
    /// No answer came in time.
    #[error("no answer to {request} within {limit:?}")]
    Timeout {
        /// The request.
        request: &'static str,
        /// The deadline.
        limit: std::time::Duration,
    },
    /// The message does not fit into a packet.
    #[error("control message is too long: {0} bytes")]
    TooLong(usize),
    /// The packet was cut off or carried too many descriptors.
    #[error("control message was cut off")]
    Truncated,
    /// The packet does not hold a valid message.
    #[error("invalid control message: {0}")]
    Json(#[from] serde_json::Error),
    /// The two sides speak different versions.
    #[error(
        "invalid control protocol version {other}: expected {VERSION}; the shim and rust-kata-vmm are of different builds"
    )]
    Version {
        /// The other side's version.
        other: u32,
    },
    /// An answer that does not belong to the request.
    #[error("unexpected answer to {request}: {answer}")]
    Unexpected {
        /// The request.
        request: &'static str,
        /// The answer.
        answer: String,
    },
    /// The guest has ended, and the VMM with it.
    #[error("{0}")]
    Ended(crate::machine::GuestExit),
    /// The VMM could not execute the request.
    #[error("{0}")]
    Refused(String),
}
