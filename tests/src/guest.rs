//! A stand-in for a guest's agent. The test connects first to the socket on which a pod's owner
//! waits for its agent, and answers calls as it likes. It stops the real guest, which would end
//! its VM when it cannot reach the host. It also accepts the streams of processes, in the VMM's
//! place, and leaves them open.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protobuf::Message;
use rustix::net::Shutdown;
use ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE, MessageHeader, Request, Response,
};

use crate::bed::Bed;
use crate::dist::machine;
use crate::{leak, process};

/// A frame of ttrpc.
pub fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut header = MessageHeader::new_response(stream, length);
    header.type_ = kind;
    [Vec::from(header), payload.to_vec()].concat()
}

/// An answer with this message, which may be empty.
pub fn answer(stream: u32, message: &[u8]) -> Vec<u8> {
    let response = Response {
        payload: message.to_vec(),
        ..Default::default()
    };
    let payload = response.write_to_bytes().expect("a message");
    frame(MESSAGE_TYPE_RESPONSE, stream, &payload)
}

/// An error answer with this text.
pub fn refusal(stream: u32, text: &str) -> Vec<u8> {
    let response = Response {
        status: Some(ttrpc::get_status(ttrpc::Code::INTERNAL, text)).into(),
        ..Default::default()
    };
    let payload = response.write_to_bytes().expect("a message");
    frame(MESSAGE_TYPE_RESPONSE, stream, &payload)
}

/// A call, as received by an agent.
pub struct Call {
    /// The number for its answer.
    pub stream: u32,
    /// Its method.
    pub method: String,
}

/// A stand-in for an agent.
pub struct Agent {
    threads: Vec<JoinHandle<()>>,
    streams: UnixListener,
    heard: Receiver<String>,
}

impl Agent {
    /// Waits for the owner of the bed's next pod, and answers its calls with the bytes from
    /// `act`, or not at all.
    pub fn of_next_pod(
        bed: &Bed,
        limit: Duration,
        act: impl FnMut(&Call) -> Vec<u8> + Send + 'static,
    ) -> Agent {
        let vms = bed.state().join(".vm");
        let machines = || bed.named(machine());
        let sockets = await_some(limit, "pod", || sockets(&vms));
        // The guest needs a while until it dials.
        let machines = await_some(limit, "machine", || {
            Some(machines()).filter(|found| !found.is_empty())
        });
        let (streams, taking) = take_streams(&sockets);
        let stream = UnixStream::connect(sockets.join("vsock_1024")).expect("the owner listens");
        let (told, heard) = channel();
        let pids: Vec<u32> = machines.iter().map(|machine| machine.pid).collect();
        let serving = std::thread::spawn(move || serve(stream, &pids, act, &told));
        Agent {
            threads: vec![serving, taking],
            streams,
            heard,
        }
    }

    /// The methods of the calls so far.
    pub fn heard(&self) -> Vec<String> {
        self.heard.try_iter().collect()
    }

    /// Waits until the owner has hung up.
    pub fn hung_up(mut self) -> Vec<String> {
        // This wakes the thread that waits for a stream.
        rustix::net::shutdown(&self.streams, Shutdown::Both).expect("it listens");
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
        self.heard()
    }
}

/// Polls: the files and processes of another program give no event.
fn await_some<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The folder of sockets of a VM whose owner waits for its agent, once the VMM has made its own
/// socket there: otherwise it would replace the stand-in's.
fn sockets(vms: &Path) -> Option<PathBuf> {
    let paths = leak::tree(vms).into_iter().map(|(path, _)| path);
    let mut paths = paths.filter(|path| path.ends_with("sockets/vsock_1024"));
    let folder = paths.next()?.parent()?.to_owned();
    folder.join("vsock").exists().then_some(folder)
}

/// Replaces the VMM's socket by one that accepts every stream and sends nothing.
fn take_streams(sockets: &Path) -> (UnixListener, JoinHandle<()>) {
    let ours = sockets.join("ours");
    let listener = UnixListener::bind(&ours).expect("the folder is root's");
    fs::rename(&ours, sockets.join("vsock")).expect("the folder is root's");
    let ended = listener.try_clone().expect("a descriptor is free");
    let taking = std::thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut hello = vec![0; "CONNECT 1025\n".len() + 8];
            if stream.read_exact(&mut hello).is_ok() && stream.write_all(b"OK 1\n").is_ok() {
                streams.push(stream);
            }
        }
    });
    (ended, taking)
}

fn serve(
    mut stream: UnixStream,
    machines: &[u32],
    mut act: impl FnMut(&Call) -> Vec<u8>,
    told: &Sender<String>,
) {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    let mut stopped = false;
    while stream.read_exact(&mut header).is_ok() {
        let header = MessageHeader::from(header);
        let mut payload = vec![0; header.length as usize];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        if !std::mem::replace(&mut stopped, true) {
            for machine in machines {
                process::signal(*machine, Signal::SIGSTOP);
            }
        }
        let request = Request::parse_from_bytes(&payload).expect("a request");
        let call = Call {
            stream: header.stream_id,
            method: request.method,
        };
        let bytes = act(&call);
        let _ = told.send(call.method);
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}
