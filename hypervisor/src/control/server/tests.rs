//! Client and server over a real socket pair.

use super::*;
use crate::control::Client;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

#[derive(Default)]
struct Recorder {
    devices: Vec<(DeviceConfig, OwnedFd)>,
    fail: bool,
}

impl Service for Recorder {
    fn start(&mut self, devices: Vec<(DeviceConfig, OwnedFd)>) -> Result<(), String> {
        if self.fail {
            return Err("no such directory".into());
        }
        self.devices = devices;
        Ok(())
    }

    fn status(&self) -> Vec<DeviceStatus> {
        vec![DeviceStatus {
            kind: format!("{} devices", self.devices.len()),
            connected: true,
        }]
    }

    fn stop(&mut self) {}
}

type Running = JoinHandle<Result<(), ControlError>>;

fn serve(socket: OwnedFd, service: Recorder) -> Running {
    let server = Server::new(socket, service).unwrap();
    thread::spawn(move || server.run())
}

fn raw() -> (OwnedFd, Running) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    (ours, serve(theirs, Recorder::default()))
}

fn exchange(socket: &OwnedFd, bytes: &[u8]) -> Response {
    nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    receive(socket.as_fd()).unwrap().0
}

fn fs_device() -> (DeviceConfig, OwnedFd) {
    let config = DeviceConfig::Fs {
        tag: "t".into(),
        dir: "/".into(),
    };
    (config, UnixStream::pair().unwrap().0.into())
}

#[tokio::test]
async fn whole_conversation() {
    let (mut client, socket) = Client::pair().unwrap();
    let server = serve(socket, Recorder::default());

    client.hello().await.unwrap();
    client.start(vec![fs_device(), fs_device()]).await.unwrap();
    let status = client.status().await.unwrap();
    client.stop().await.unwrap();

    assert_eq!(status[0].kind, "2 devices");
    server.join().unwrap().unwrap();
}

#[tokio::test]
async fn refusal_reaches_the_owner() {
    let (mut client, socket) = Client::pair().unwrap();
    let fail = true;
    let _server = serve(
        socket,
        Recorder {
            fail,
            ..Recorder::default()
        },
    );

    client.hello().await.unwrap();
    let err = client.start(vec![fs_device()]).await.unwrap_err();

    assert_eq!(err.to_string(), "no such directory");
}

#[tokio::test]
async fn server_ends_with_the_channel() {
    let (client, socket) = Client::pair().unwrap();
    let server = serve(socket, Recorder::default());

    drop(client);

    server.join().unwrap().unwrap();
}

#[tokio::test]
async fn client_sees_the_end_of_the_server() {
    let (mut client, socket) = Client::pair().unwrap();
    drop(socket);

    let err = client.hello().await.unwrap_err();

    assert!(
        matches!(err, ControlError::Closed | ControlError::Socket(_)),
        "{err}"
    );
}

#[test]
fn nonsense_is_answered_and_survived() {
    let (socket, _server) = raw();

    for bytes in [&b"{"[..], b"\xff\xfe", b"[]", br#"{"request":"dance"}"#] {
        assert!(matches!(exchange(&socket, bytes), Response::Error { .. }));
    }
    let hello = format!(r#"{{"request":"hello","version":{VERSION}}}"#);
    let response = exchange(&socket, hello.as_bytes());
    assert_eq!(response, Response::Hello { version: VERSION });
}

#[test]
fn oversized_packet_is_refused() {
    let (socket, _server) = raw();

    let response = exchange(&socket, &vec![b' '; crate::control::MAX_MESSAGE + 1]);

    assert!(matches!(response, Response::Error { message } if message.contains("cut off")));
}

#[test]
fn order_and_count_are_checked() {
    let (socket, _server) = raw();

    let response = exchange(&socket, br#"{"request":"status"}"#);
    assert!(matches!(response, Response::Error { message } if message.contains("Hello")));

    let response = exchange(&socket, br#"{"request":"hello","version":999}"#);
    assert!(matches!(response, Response::Error { message } if message.contains("999")));

    exchange(
        &socket,
        format!(r#"{{"request":"hello","version":{VERSION}}}"#).as_bytes(),
    );
    let start = br#"{"request":"start","devices":[{"type":"fs","tag":"t","dir":"/"}]}"#;
    let response = exchange(&socket, start);
    assert!(matches!(response, Response::Error { message } if message.contains("0 sockets")));
}

#[test]
fn stream_socket_is_no_control_channel() {
    let (ours, _theirs) = UnixStream::pair().unwrap();

    assert!(Server::new(ours.into(), Recorder::default()).is_err());
}
