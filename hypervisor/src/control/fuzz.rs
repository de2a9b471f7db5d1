//! A fuzz target for the control protocol.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, shutdown,
    socketpair,
};

use super::{
    Attached, DeviceConfig, MAX_FDS, MAX_MESSAGE, Request, Server, Service, VERSION, VmmStatus,
};
use crate::fuzz::Script;
use crate::machine::{Ending, GuestExit, MachineConfig, MachineFiles, MemoryConfig};

/// Packets to one server. Their answers stay in the socket, which is large enough.
const PACKETS: usize = 64;

/// Valid messages.
static MESSAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let machine = MachineConfig {
        vcpus: 1,
        max_vcpus: 2,
        memory: MemoryConfig::default(),
        cmdline: "quiet".into(),
    };
    let vsock = DeviceConfig::Vsock {
        cid: 3,
        uds: "/x".into(),
    };
    let block = DeviceConfig::Block {
        read_only: true,
        id: "disk".into(),
    };
    let net = DeviceConfig::Net {
        queues: 2,
        mac: [2; 6],
        mtu: Some(1500),
    };
    let requests = [
        Request::Hello { version: VERSION },
        Request::Serve {
            devices: vec![vsock],
        },
        Request::Serve {
            devices: vec![block.clone(), net.clone()],
        },
        Request::Build {
            machine: Box::new(machine),
            devices: vec![block.clone(), net.clone()],
        },
        Request::Run,
        Request::Pause,
        Request::PlugMemory { mib: 128 },
        Request::Status,
        Request::Stop,
        Request::Attach { device: block },
        Request::Attach { device: net },
        Request::Detach { slot: 5 },
    ];
    requests
        .iter()
        .map(|request| serde_json::to_vec(request).unwrap())
        .collect()
});

/// Packets of an owner, with arbitrary descriptors.
pub fn control(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
    let service = Checked {
        ends: script.byte() & 1 != 0,
        ..Checked::default()
    };
    for _ in 0..PACKETS {
        if script.is_over() || !send(&ours, &mut script) {
            break;
        }
    }
    shutdown(ours.as_raw_fd(), Shutdown::Write).unwrap();
    let server = Server::new(theirs, service).unwrap();
    // Ends with the last packet: only Stop ends the channel earlier.
    let _ = server.run();
}

/// False when the socket is full.
fn send(socket: &OwnedFd, script: &mut Script<'_>) -> bool {
    let what = script.byte();
    let long: Vec<u8>;
    let data = match usize::from(what & 0xf) {
        14 => {
            long = vec![script.byte(); script.word().into()];
            &long
        }
        15 => {
            let len = script.word() as usize % MAX_MESSAGE;
            script.bytes(len)
        }
        // A valid message with one changed byte.
        12 | 13 => {
            let mut message = MESSAGES[usize::from(script.byte()) % MESSAGES.len()].clone();
            let at = usize::from(script.byte()) % message.len();
            message[at] = script.byte();
            long = message;
            &long
        }
        good => &MESSAGES[good],
    };
    let count = match what >> 4 {
        few @ 0..10 => few,
        many => many + MAX_FDS as u8 - 12,
    };
    let raw = vec![socket.as_raw_fd() as RawFd; count.into()];
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[][..] } else { &rights };
    let data = [std::io::IoSlice::new(data)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &data, ancillary, flags, None).is_ok()
}

/// A service that checks the order of calls: one start, in one of two ways, with the
/// descriptors of each device, and one stop; devices are attached and detached only in between.
#[derive(Default)]
struct Checked {
    started: bool,
    stopped: bool,
    /// Whether the guest ends after its start.
    ends: bool,
    ending: Option<Ending>,
}

impl Checked {
    fn start(&mut self, devices: &[Attached], more: usize) {
        assert!(!self.stopped && !std::mem::replace(&mut self.started, true));
        for (device, files) in devices {
            assert_eq!(files.len(), device.files() + more);
        }
    }
}

impl Service for Checked {
    fn serve(&mut self, devices: Vec<Attached>) -> Result<(), String> {
        self.start(&devices, 1);
        Ok(())
    }

    fn build(
        &mut self,
        _: MachineConfig,
        _: MachineFiles,
        devices: Vec<Attached>,
    ) -> Result<Ending, String> {
        self.start(&devices, 0);
        let ending = Ending::new().map_err(|err| err.to_string())?;
        self.ending = Some(ending.clone());
        Ok(ending)
    }

    fn run(&mut self) -> Result<(), String> {
        assert!(!self.stopped);
        let ending = self.ending.as_ref().ok_or("no machine")?;
        if self.ends {
            ending.report(GuestExit::PowerOff);
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), String> {
        assert!(!self.stopped);
        Err("not now".into())
    }

    fn plug_memory(&mut self, mib: u32) -> Result<u32, String> {
        assert!(!self.stopped);
        Ok(mib)
    }

    fn attach(&mut self, (device, files): Attached) -> Result<u32, String> {
        assert!(self.ending.is_some() && !self.stopped);
        assert!(device.may_come_later());
        assert_eq!(files.len(), device.files());
        Ok(7)
    }

    fn detach(&mut self, slot: u32) -> Result<(), String> {
        assert!(!self.stopped);
        (slot == 7).then_some(()).ok_or("an empty slot".into())
    }

    fn status(&self) -> VmmStatus {
        assert!(!self.stopped);
        VmmStatus::default()
    }

    fn stop(&mut self) {
        assert!(!std::mem::replace(&mut self.stopped, true));
    }
}
