//! Client and server over a real socket pair.

mod answers;

use super::*;
use crate::control::Client;
use crate::control::DeviceStatus;
use crate::machine::GuestExit;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

#[derive(Default)]
struct Recorder {
    devices: Vec<Attached>,
    fail: bool,
    /// Returned when a machine is built.
    ending: Option<Ending>,
}

impl Service for Recorder {
    fn serve(&mut self, devices: Vec<Attached>) -> Result<(), String> {
        if self.fail {
            return Err("no such directory".into());
        }
        self.devices = devices;
        Ok(())
    }

    fn build(
        &mut self,
        _machine: MachineConfig,
        _files: MachineFiles,
        devices: Vec<Attached>,
    ) -> Result<Ending, String> {
        self.devices = devices;
        self.ending.clone().ok_or("no machine".into())
    }

    fn run(&mut self) -> Result<(), String> {
        let ending = self.ending.as_ref().ok_or("no machine")?;
        ending.report(GuestExit::PowerOff);
        Ok(())
    }

    fn pause(&mut self) -> Result<(), String> {
        Err("not now".into())
    }

    fn plug_memory(&mut self, mib: u32) -> Result<u32, String> {
        Ok(mib / 2)
    }

    fn attach(&mut self, device: Attached) -> Result<u32, String> {
        self.devices.push(device);
        Ok(self.devices.len() as u32 - 1)
    }

    fn detach(&mut self, slot: u32) -> Result<(), String> {
        let slot = slot as usize;
        if slot >= self.devices.len() {
            return Err("an empty slot".into());
        }
        self.devices.remove(slot);
        Ok(())
    }

    fn status(&self) -> VmmStatus {
        let describe = |(device, files): &Attached| DeviceStatus {
            kind: format!("{device:?} {}", files.len()),
            connected: true,
        };
        VmmStatus {
            devices: self.devices.iter().map(describe).collect(),
            boot_mark_us: None,
        }
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

fn fd() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

fn fs_device() -> Attached {
    let config = DeviceConfig::Fs {
        tag: "t".into(),
        dir: "/".into(),
        files: 1000,
    };
    (config, vec![fd()])
}

#[tokio::test]
async fn whole_conversation() {
    let (mut client, socket) = Client::pair().unwrap();
    let server = serve(socket, Recorder::default());

    client.hello().await.unwrap();
    client.serve(vec![fs_device(), fs_device()]).await.unwrap();
    let status = client.status().await.unwrap();
    client.stop().await.unwrap();

    assert_eq!(status.devices.len(), 2);
    server.join().unwrap().unwrap();
}

fn machine() -> MachineConfig {
    MachineConfig {
        vcpus: 1,
        max_vcpus: 1,
        memory: Default::default(),
        cmdline: String::new(),
    }
}

#[tokio::test]
async fn life_of_a_machine() {
    let (mut client, socket) = Client::pair().unwrap();
    let ending = Some(Ending::new().unwrap());
    let server = serve(
        socket,
        Recorder {
            ending,
            ..Recorder::default()
        },
    );
    let disk = DeviceConfig::Block {
        read_only: true,
        id: "d".into(),
    };
    let files: Vec<_> = (0..5).map(|_| fd()).collect();

    client.hello().await.unwrap();
    let devices = vec![DeviceConfig::Rng, disk];
    client.build(machine(), devices, &files).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(client.plug_memory(256).await.unwrap(), 128);
    let refused = client.pause().await.unwrap_err();
    client.run().await.unwrap();

    // The disk got the descriptor behind the machine's four.
    assert_eq!(status.devices[0].kind, "Rng 0");
    assert!(status.devices[1].kind.ends_with("} 1"));
    assert_eq!(refused.to_string(), "not now");
    server.join().unwrap().unwrap();
    assert_eq!(client.last_word(), Some(GuestExit::PowerOff));
    assert_eq!(client.last_word(), None);
}

#[tokio::test]
async fn devices_come_and_go_with_their_descriptors() {
    let (mut client, socket) = Client::pair().unwrap();
    let ending = Some(Ending::new().unwrap());
    let service = Recorder {
        ending,
        ..Recorder::default()
    };
    let _server = serve(socket, service);
    let disk = || DeviceConfig::Block {
        read_only: false,
        id: "d".into(),
    };
    let net = DeviceConfig::Net {
        queues: 2,
        mac: [2; 6],
        mtu: None,
    };
    let fds = |count: usize| (0..count).map(|_| fd()).collect::<Vec<_>>();
    client.hello().await.unwrap();

    let early = client.attach(disk(), &fds(1)).await.unwrap_err();
    client.build(machine(), vec![], &fds(4)).await.unwrap();
    let slots = [
        client.attach(disk(), &fds(1)).await.unwrap(),
        client.attach(net, &fds(2)).await.unwrap(),
    ];
    let status = client.status().await.unwrap();
    let few = client.attach(disk(), &[]).await.unwrap_err();
    let never = client.attach(DeviceConfig::Balloon, &[]).await.unwrap_err();
    client.detach(1).await.unwrap();
    let gone = client.detach(1).await.unwrap_err();

    assert_eq!(early.to_string(), "no machine is running");
    assert_eq!(slots, [0, 1]);
    assert!(status.devices[0].kind.ends_with("} 1"));
    assert!(status.devices[1].kind.ends_with("} 2"));
    assert!(few.to_string().contains("0 descriptors, not 1"), "{few}");
    assert!(never.to_string().contains("Balloon"), "{never}");
    assert_eq!(gone.to_string(), "an empty slot");
}

#[tokio::test]
async fn end_of_the_guest_answers_every_request() {
    let (mut client, socket) = Client::pair().unwrap();
    let ending = Some(Ending::new().unwrap());
    let service = Recorder {
        ending,
        ..Recorder::default()
    };
    let server = serve(socket, service);
    let files: Vec<_> = (0..4).map(|_| fd()).collect();
    client.hello().await.unwrap();
    client.build(machine(), vec![], &files).await.unwrap();
    client.run().await.unwrap();
    server.join().unwrap().unwrap();

    let err = client.status().await.unwrap_err();

    let reported = matches!(
        err,
        ControlError::Ended(GuestExit::PowerOff) | ControlError::Socket(_)
    );
    assert!(reported, "{err}");
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
    let err = client.serve(vec![fs_device()]).await.unwrap_err();

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
    let start = br#"{"request":"serve","devices":[{"type":"fs","tag":"t","dir":"/","files":9}]}"#;
    let response = exchange(&socket, start);
    assert!(matches!(response, Response::Error { message } if message.contains("0 descriptors")));
    let build = br#"{"request":"build","machine":{"vcpus":1,"max_vcpus":1,"cmdline":"","memory":{"mib":1,"hotplug_mib":0,"shared":true,"hugepages":false}},"devices":[]}"#;
    let response = exchange(&socket, build);
    assert!(matches!(response, Response::Error { message } if message.contains("0 descriptors")));
}

#[test]
fn stream_socket_is_no_control_channel() {
    let (ours, _theirs) = UnixStream::pair().unwrap();

    let refused = Server::new(ours.into(), Recorder::default()).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}
