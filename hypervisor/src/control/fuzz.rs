//! The control protocol under a fuzzer.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, shutdown,
    socketpair,
};

use super::{DeviceConfig, DeviceStatus, MAX_FDS, MAX_MESSAGE, Request, Server, Service, VERSION};
use crate::fuzz::Script;

/// Packets to one server. Their answers stay in the socket, which has room for more.
const PACKETS: usize = 64;

/// Good messages.
const MESSAGES: [&str; 4] = [
    r#"{"request":"start","devices":[{"type":"vsock","cid":3,"uds":"/x"}]}"#,
    r#"{"request":"start","devices":[]}"#,
    r#"{"request":"status"}"#,
    r#"{"request":"stop"}"#,
];

/// Packets of an owner, with any descriptors.
pub fn control(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
    for _ in 0..PACKETS {
        if script.is_over() || !send(&ours, &mut script) {
            break;
        }
    }
    shutdown(ours.as_raw_fd(), Shutdown::Write).unwrap();
    let server = Server::new(theirs, Checked::default()).unwrap();
    // Ends with the last packet: nothing that is sent is the end of the channel, but Stop.
    let _ = server.run();
}

/// False when the socket is full.
fn send(socket: &OwnedFd, script: &mut Script<'_>) -> bool {
    let what = script.byte();
    let long: Vec<u8>;
    let data = match what & 7 {
        good @ 0..4 => MESSAGES[usize::from(good)].as_bytes(),
        4 => {
            let hello = Request::Hello { version: VERSION };
            long = serde_json::to_vec(&hello).unwrap();
            &long
        }
        5 => {
            long = vec![script.byte(); script.word().into()];
            &long
        }
        _ => {
            let len = script.word() as usize % MAX_MESSAGE;
            script.bytes(len)
        }
    };
    let count = match what >> 3 {
        few @ 0..24 => few % 3,
        many => many + MAX_FDS as u8 - 28,
    };
    let raw = vec![socket.as_raw_fd() as RawFd; count.into()];
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[][..] } else { &rights };
    let data = [std::io::IoSlice::new(data)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &data, ancillary, flags, None).is_ok()
}

/// A service that is started once, with a descriptor for each device, and stopped once.
#[derive(Default)]
struct Checked {
    started: bool,
    stopped: bool,
}

impl Service for Checked {
    fn start(&mut self, devices: Vec<(DeviceConfig, OwnedFd)>) -> Result<(), String> {
        assert!(!self.stopped && !std::mem::replace(&mut self.started, true));
        assert!(devices.len() <= MAX_FDS);
        Ok(())
    }

    fn status(&self) -> Vec<DeviceStatus> {
        assert!(!self.stopped);
        Vec::new()
    }

    fn stop(&mut self) {
        assert!(!std::mem::replace(&mut self.stopped, true));
    }
}
