//! The messages of the control protocol.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::machine::{GuestExit, MachineConfig};

/// The version of the messages below. Both sides come from one build; the number detects a
/// binary of another build.
pub const VERSION: u32 = 4;

/// From the owner to the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first request.
    Hello {
        /// The owner's [`VERSION`].
        version: u32,
    },
    /// Serve these devices to another process that runs the VM. For each device the packet has
    /// the connected vhost-user socket, followed by the device's own descriptors.
    Serve {
        /// The devices.
        devices: Vec<DeviceConfig>,
    },
    /// Build a VM on KVM, without running it. The packet has the descriptors of
    /// [`MachineFiles`](crate::machine::MachineFiles) in their order, followed by those of each
    /// device.
    Build {
        /// The machine.
        machine: Box<MachineConfig>,
        /// Its devices.
        devices: Vec<DeviceConfig>,
    },
    /// Let the VM run, for the first time or after a pause.
    Run,
    /// Stop its vCPUs and devices.
    Pause,
    /// Ask the guest for this much plugged memory, in addition to its memory at boot.
    PlugMemory {
        /// In MiB.
        mib: u32,
    },
    /// Attach a device to a free slot of the machine, which may run. The packet has the
    /// descriptors of the device.
    Attach {
        /// The device, of a kind that [can be attached later](DeviceConfig::may_come_later).
        device: DeviceConfig,
    },
    /// Detach an attached device from its slot. The guest should release it first.
    Detach {
        /// The slot.
        slot: u32,
    },
    /// Report the state of the devices.
    Status,
    /// Finish the requests in flight and end.
    Stop,
}

impl Request {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Hello { .. } => "Hello",
            Request::Serve { .. } => "Serve",
            Request::Build { .. } => "Build",
            Request::Run => "Run",
            Request::Pause => "Pause",
            Request::PlugMemory { .. } => "PlugMemory",
            Request::Attach { .. } => "Attach",
            Request::Detach { .. } => "Detach",
            Request::Status => "Status",
            Request::Stop => "Stop",
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceConfig {
    /// A vsock device.
    Vsock {
        /// The guest's context id.
        cid: u64,
        /// See [`VmSpec::vsock_uds`](crate::VmSpec::vsock_uds); this is the path in the jail.
        uds: PathBuf,
    },
    /// A virtio-fs device.
    Fs {
        /// The name for mounting it in the guest.
        tag: String,
        /// The shared directory; the path in the jail.
        dir: PathBuf,
        /// The most files of it that the guest may know at a time.
        files: u32,
    },
    /// A disk. It has one descriptor: the file or block device, opened with the access that the
    /// guest has.
    Block {
        /// Whether the guest may only read it.
        read_only: bool,
        /// Its serial number in the guest.
        id: String,
    },
    /// A network device. It has one descriptor for each queue of its tap.
    Net {
        /// The queues of the tap; each is a pair of queues in the guest.
        queues: u16,
        /// Its hardware address.
        mac: [u8; 6],
        /// The longest packet; `None` leaves it to the guest.
        mtu: Option<u16>,
    },
    /// A source of entropy.
    Rng,
    /// A balloon, which returns free memory of the guest to the host.
    Balloon,
    /// The memory that can be plugged.
    Mem,
}

impl DeviceConfig {
    /// The number of descriptors of the device.
    pub fn files(&self) -> usize {
        match self {
            DeviceConfig::Block { .. } => 1,
            DeviceConfig::Net { queues, .. } => (*queues).into(),
            _ => 0,
        }
    }

    /// Whether the device can be attached after the machine was built. The other kinds exist
    /// once, and have all their resources from the start.
    pub fn may_come_later(&self) -> bool {
        matches!(self, DeviceConfig::Block { .. } | DeviceConfig::Net { .. })
    }
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
    /// The answer to [`Request::Serve`], [`Request::Build`], [`Request::Run`],
    /// [`Request::Pause`] and [`Request::Detach`].
    Done,
    /// The answer to [`Request::PlugMemory`]: the plugged memory in MiB.
    Plugged {
        /// It may be less than requested: the guest may refuse, or take longer.
        mib: u32,
    },
    /// To [`Request::Attach`].
    Attached {
        /// The slot of the device.
        slot: u32,
    },
    /// To [`Request::Status`].
    Status(VmmStatus),
    /// The answer to [`Request::Stop`]: the VMM ends now.
    Stopped,
    /// The request failed.
    Error {
        /// The reason.
        message: String,
    },
    /// Sent without a request, as the last message: the guest and the VMM end.
    Ended(GuestExit),
}

/// The state of the VMM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmStatus {
    /// One entry for each device, in the order of the request that made them.
    pub devices: Vec<DeviceStatus>,
    /// The time of the guest's boot mark, in microseconds since the VMM's start.
    pub boot_mark_us: Option<u64>,
}

/// The state of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceStatus {
    /// Its kind.
    pub kind: String,
    /// Whether it is connected to the hypervisor and does not need a reset.
    pub connected: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_json() {
        let request = Request::Serve {
            devices: vec![
                DeviceConfig::Vsock {
                    cid: 3,
                    uds: "/run/v".into(),
                },
                DeviceConfig::Fs {
                    tag: "t".into(),
                    dir: "/share".into(),
                    files: 1000,
                },
            ],
        };

        let text = serde_json::to_string(&request).unwrap();

        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"request":"hello","version":1,"extra":true}"#;

        let refused = serde_json::from_str::<Request>(text).unwrap_err();
        assert!(refused.to_string().contains("unknown field `extra`"));
    }

    #[test]
    fn devices_have_these_descriptors_and_some_can_come_later() {
        let net = |queues| DeviceConfig::Net {
            queues,
            mac: [2; 6],
            mtu: None,
        };
        let path = PathBuf::from;
        for (device, files, later) in [
            (net(0), 0, true),
            (net(1), 1, true),
            (net(16), 16, true),
            (
                DeviceConfig::Block {
                    read_only: true,
                    id: "d".into(),
                },
                1,
                true,
            ),
            (
                DeviceConfig::Vsock {
                    cid: 3,
                    uds: path("/v"),
                },
                0,
                false,
            ),
            (
                DeviceConfig::Fs {
                    tag: "t".into(),
                    dir: path("/d"),
                    files: 9,
                },
                0,
                false,
            ),
            (DeviceConfig::Rng, 0, false),
            (DeviceConfig::Balloon, 0, false),
            (DeviceConfig::Mem, 0, false),
        ] {
            let found = (device.files(), device.may_come_later());
            assert_eq!(found, (files, later), "{device:?}");
        }
    }

    /// The name on the wire is that of the variant, in another case.
    #[test]
    fn requests_have_names_for_errors() {
        let machine = Box::new(MachineConfig {
            vcpus: 1,
            max_vcpus: 1,
            memory: Default::default(),
            cmdline: String::new(),
        });
        let devices = Vec::new();
        for request in [
            Request::Hello { version: 1 },
            Request::Serve { devices: vec![] },
            Request::Build { machine, devices },
            Request::Run,
            Request::Pause,
            Request::PlugMemory { mib: 1 },
            Request::Attach {
                device: DeviceConfig::Rng,
            },
            Request::Detach { slot: 1 },
            Request::Status,
            Request::Stop,
        ] {
            let json = serde_json::to_value(&request).unwrap();
            let wire = json["request"].as_str().unwrap().replace('_', "");
            assert_eq!(request.name().to_lowercase(), wire);
        }
    }
}
