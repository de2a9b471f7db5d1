//! A fuzz target for the vhost-user requests, with a device that checks its transport.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use vhost::vhost_user::BackendReqHandler;

use super::{Backend, lock};
use crate::event::EventFd;
use crate::fuzz::{Plain, Script};

/// Requests to one device. Their answers stay in the socket, which is large enough.
const REQUESTS: usize = 64;
const MEMORY: i64 = 0x10000;

/// Requests of a front end, with arbitrary descriptors.
pub fn vhost_user(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let handler = Arc::new(Mutex::new(Backend::new(Box::new(Plain::default()))));
    let mut requests = BackendReqHandler::from_stream(theirs, Arc::clone(&handler));
    for _ in 0..REQUESTS {
        if script.is_over() {
            break;
        }
        send(&ours, &mut script);
        if requests.handle_request().is_err() {
            break;
        }
    }
    let _ = ours.shutdown(std::net::Shutdown::Write);
    lock(&handler).stop_all();
}

/// "Message format" in the vhost-user specification: request, flags, size, payload.
fn send(socket: &UnixStream, script: &mut Script<'_>) {
    let request = u32::from(script.byte() % 48);
    let shape = script.byte();
    let len = usize::from(script.byte());
    let mut payload = match shape & 7 {
        // A number, as most requests have, and one more.
        0..3 => {
            let numbers = [script.number(), script.number()];
            numbers.map(u32::to_le_bytes).concat()
        }
        3 => u64::from(script.number()).to_le_bytes().to_vec(),
        _ => script.bytes(len).to_vec(),
    };
    if request == MEM_TABLE && shape & 8 != 0 {
        payload = memory_table(script);
    }
    let size = match shape >> 4 {
        15 => script.number(),
        _ => payload.len() as u32,
    };
    let mut message = Vec::new();
    for word in [request, 1 | u32::from(shape & 0x10) >> 1, size] {
        message.extend(word.to_le_bytes());
    }
    message.extend(&payload);
    let fds = descriptors(request, script);
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[][..] } else { &rights };
    let data = [std::io::IoSlice::new(&message)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let _ = sendmsg::<()>(socket.as_raw_fd(), &data, ancillary, flags, None);
    // Ends the stream, since the server would wait for the rest of the message.
    if size as usize > payload.len() {
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
}

/// VHOST_USER_SET_MEM_TABLE
const MEM_TABLE: u32 = 5;

/// A table with at most one valid region.
fn memory_table(script: &mut Script<'_>) -> Vec<u8> {
    let regions = script.byte() % 3;
    let mut table = vec![regions, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..regions {
        let size = match script.byte() {
            0..240 => MEMORY as u64,
            _ => script.quad(),
        };
        let user = u64::from(script.byte() & 1) << 32;
        for field in [u64::from(script.number()), size, user, 0] {
            table.extend(field.to_le_bytes());
        }
    }
    table
}

/// Descriptors that fit the request: memory for the memory table, events otherwise; sometimes
/// too many.
fn descriptors(request: u32, script: &mut Script<'_>) -> Vec<OwnedFd> {
    let count = match script.byte() {
        most @ 0..240 => most % 3,
        many => many % 12,
    };
    (0..count)
        .map(|_| match request {
            MEM_TABLE => {
                let file = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
                nix::unistd::ftruncate(&file, MEMORY).unwrap();
                file
            }
            _ => EventFd::new()
                .unwrap()
                .as_fd()
                .try_clone_to_owned()
                .unwrap(),
        })
        .collect()
}
