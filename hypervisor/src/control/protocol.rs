//! The messages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the messages below. Both sides come from one build; the number
/// catches a binary left over from another.
pub const VERSION: u32 = 1;

/// From the owner to the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first request.
    Hello {
        /// The owner's [`VERSION`].
        version: u32,
    },
    /// Serve these devices. The n-th descriptor of the packet is the connected
    /// vhost-user socket of the n-th device.
    Start {
        /// The devices.
        devices: Vec<DeviceConfig>,
    },
    /// Tell how the devices are.
    Status,
    /// Finish what is in flight and end.
    Stop,
}

impl Request {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Hello { .. } => "Hello",
            Request::Start { .. } => "Start",
            Request::Status => "Status",
            Request::Stop => "Stop",
        }
    }
}

/// A device to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceConfig {
    /// A vsock device.
    Vsock {
        /// The guest's context id.
        cid: u64,
        /// See [`VmSpec::vsock_uds`](crate::VmSpec::vsock_uds); the path in the jail.
        uds: PathBuf,
    },
    /// A virtio-fs device.
    Fs {
        /// The name by which the guest mounts it.
        tag: String,
        /// The directory shown; the path in the jail.
        dir: PathBuf,
    },
}

/// From the VMM to the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To [`Request::Hello`].
    Hello {
        /// The VMM's [`VERSION`].
        version: u32,
    },
    /// To [`Request::Start`]: the devices are being served.
    Started,
    /// To [`Request::Status`].
    Status {
        /// One entry per device, in the order of [`Request::Start`].
        devices: Vec<DeviceStatus>,
    },
    /// To [`Request::Stop`]: the VMM ends now.
    Stopped,
    /// The request failed.
    Error {
        /// Why.
        message: String,
    },
}

/// How a device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its kind.
    pub kind: String,
    /// Whether the hypervisor is connected to it.
    pub connected: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_json() {
        let request = Request::Start {
            devices: vec![
                DeviceConfig::Vsock {
                    cid: 3,
                    uds: "/run/v".into(),
                },
                DeviceConfig::Fs {
                    tag: "t".into(),
                    dir: "/share".into(),
                },
            ],
        };

        let text = serde_json::to_string(&request).unwrap();

        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"request":"hello","version":1,"extra":true}"#;

        assert!(serde_json::from_str::<Request>(text).is_err());
    }
}
