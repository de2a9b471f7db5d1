//! A client and answers that it does not expect.

use super::*;
use std::time::Duration;
use tokio::time::timeout;

/// A client, and a server that is the test itself.
fn client() -> (Client, OwnedFd) {
    Client::pair().unwrap()
}

fn answer(socket: &OwnedFd, response: &Response) {
    let (_, _) = receive::<Request>(socket.as_fd()).unwrap();
    send(socket.as_fd(), response, &[]).unwrap();
}

/// Waits for a request on this thread, since the client waits for its answer.
fn answers(socket: OwnedFd, responses: Vec<Response>) -> JoinHandle<OwnedFd> {
    thread::spawn(move || {
        responses.iter().for_each(|it| answer(&socket, it));
        socket
    })
}

#[tokio::test]
async fn another_version_is_told() {
    let (mut client, socket) = client();
    let _server = answers(socket, vec![Response::Hello { version: 99 }]);
    let other = client.hello().await.unwrap_err();
    assert!(
        matches!(other, ControlError::Version { other: 99 }),
        "{other}"
    );
}

#[tokio::test]
async fn an_answer_to_another_request_is_an_error_with_the_name() {
    let file = || DeviceConfig::Rng;
    for number in 0..8 {
        let (mut client, socket) = client();
        let wrong = match number {
            0..4 => Response::Plugged { mib: 1 },
            _ => Response::Done,
        };
        let _server = answers(socket, vec![wrong]);
        let (failed, name) = match number {
            0 => (client.run().await.err(), "Run"),
            1 => (client.pause().await.err(), "Pause"),
            2 => (client.detach(1).await.err(), "Detach"),
            3 => (client.serve(vec![]).await.err(), "Serve"),
            4 => (client.plug_memory(1).await.err(), "PlugMemory"),
            5 => (client.attach(file(), &[]).await.err(), "Attach"),
            6 => (client.status().await.err(), "Status"),
            _ => (client.stop().await.err(), "Stop"),
        };
        let Some(ControlError::Unexpected { request, .. }) = failed else {
            panic!("{name}: {failed:?}");
        };
        assert_eq!(request, name);
    }
    let (mut client, socket) = client();
    let _server = answers(socket, vec![Response::Stopped]);
    let failed = client.hello().await.unwrap_err();
    assert!(matches!(
        failed,
        ControlError::Unexpected {
            request: "Hello",
            ..
        }
    ));
}

/// The late answer to a request that the caller gave up must not be taken for the next one.
#[tokio::test]
async fn answers_stay_with_their_requests_after_a_caller_gave_up() {
    let (mut client, socket) = client();
    for _ in 0..2 {
        let given_up = timeout(Duration::from_millis(1), client.plug_memory(1)).await;
        assert!(given_up.is_err());
    }
    assert_eq!(client.unanswered(), 2);
    let responses = [10, 20, 30].map(|mib| Response::Plugged { mib });
    let server = answers(socket, responses.to_vec());
    assert_eq!(client.plug_memory(3).await.unwrap(), 30);
    assert_eq!(client.unanswered(), 0);
    let socket = server.join().unwrap();
    let _server = answers(socket, vec![Response::Attached { slot: 4 }]);
    let slot = client.attach(DeviceConfig::Rng, &[]).await.unwrap();
    assert_eq!(slot, 4);
}

#[tokio::test]
async fn a_long_reason_is_cut_and_cleaned() {
    let (mut client, socket) = client();
    let message = format!("bad\x1b[2J{}", "x".repeat(10_000));
    let _server = answers(socket, vec![Response::Error { message }]);
    let refused = client.run().await.unwrap_err();
    let ControlError::Refused(reason) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.starts_with("bad\\u{1b}[2Jxxx"), "{reason}");
    assert!(reason.len() < 4200, "{}", reason.len());
}

#[tokio::test]
async fn the_end_of_the_guest_is_an_error_of_any_request() {
    let (mut client, socket) = client();
    let _server = answers(socket, vec![Response::Ended(GuestExit::Reset)]);
    let ended = client.run().await.unwrap_err();
    assert!(
        matches!(ended, ControlError::Ended(GuestExit::Reset)),
        "{ended}"
    );

    let (mut client, socket) = self::client();
    assert_eq!(client.last_word(), None);
    for response in [Response::Done, Response::Ended(GuestExit::TripleFault)] {
        send(socket.as_fd(), &response, &[]).unwrap();
    }
    assert_eq!(client.last_word(), Some(GuestExit::TripleFault));
    assert_eq!(client.last_word(), None);
}

#[test]
fn devices_are_dealt_their_descriptors_in_order() {
    let disk = DeviceConfig::Block {
        read_only: false,
        id: "d".into(),
    };
    let net = DeviceConfig::Net {
        queues: 2,
        mac: [2; 6],
        mtu: None,
    };
    let devices = || vec![DeviceConfig::Rng, disk.clone(), net.clone()];
    let fds = |count: usize| (0..count).map(|_| fd()).collect::<Vec<_>>();
    for (more, wanted) in [(0, [0, 1, 2]), (1, [1, 2, 3])] {
        let all = fds(wanted.iter().sum());
        let numbers: Vec<_> = all.iter().map(AsRawFd::as_raw_fd).collect();
        let dealt = deal(devices(), all, more).unwrap();
        let counts: Vec<_> = dealt.iter().map(|(_, files)| files.len()).collect();
        assert_eq!(counts, wanted);
        let order: Vec<_> = dealt
            .iter()
            .flat_map(|(_, files)| files.iter().map(AsRawFd::as_raw_fd))
            .collect();
        assert_eq!(order, numbers);
        let total: usize = wanted.iter().sum();
        for count in [total - 1, total + 1] {
            let refused = deal(devices(), fds(count), more).unwrap_err();
            let said = format!("3 devices came with {count} descriptors, not {total}");
            assert_eq!(refused, said);
        }
    }
}

#[tokio::test]
async fn devices_are_started_once() {
    let (mut client, socket) = client();
    let ending = Some(Ending::new().unwrap());
    let _server = serve(
        socket,
        Recorder {
            ending,
            ..Recorder::default()
        },
    );
    client.hello().await.unwrap();
    client.serve(vec![fs_device()]).await.unwrap();
    let again = client.serve(vec![fs_device()]).await.unwrap_err();
    assert_eq!(again.to_string(), "the devices are already started");
    let files: Vec<_> = (0..4).map(|_| fd()).collect();
    let built = client.build(machine(), vec![], &files).await.unwrap_err();
    assert_eq!(built.to_string(), "the devices are already started");
    let few: Vec<_> = (0..3).map(|_| fd()).collect();
    let (mut client, socket) = self::client();
    let _server = serve(socket, Recorder::default());
    client.hello().await.unwrap();
    let built = client.build(machine(), vec![], &few).await.unwrap_err();
    assert_eq!(built.to_string(), "A machine came with 3 descriptors");
}

/// unix(7): a socket that is closed with unread data resets the other end.
#[test]
fn an_owner_that_ends_without_its_answers_breaks_the_channel() {
    let (socket, server) = raw();
    let hello = format!(r#"{{"request":"hello","version":{VERSION}}}"#);
    nix::sys::socket::send(socket.as_raw_fd(), hello.as_bytes(), MsgFlags::empty()).unwrap();
    // The answer is there, and stays there.
    let peek = MsgFlags::MSG_PEEK;
    let len = nix::sys::socket::recv(socket.as_raw_fd(), &mut [0; 8], peek).unwrap();
    assert_ne!(len, 0);
    drop(socket);
    let failed = server.join().unwrap().unwrap_err();
    let reset = matches!(&failed, ControlError::Socket(err) if err.kind() == io::ErrorKind::ConnectionReset);
    assert!(reset, "{failed:?}");
}
