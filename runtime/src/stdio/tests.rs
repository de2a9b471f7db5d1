//! Streams to a guest, with a stand-in for the VMM.

use super::*;
use std::fs;

use tokio::net::UnixListener;

/// Receives the beginning of a stream, up to its token, as the VMM does.
async fn accept_hello(listener: &UnixListener) -> (UnixStream, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = vec![0; "CONNECT 1025\n".len() + 8];
    stream.read_exact(&mut hello).await.unwrap();
    (stream, hello)
}

fn streams(dir: &Path) -> (UnixListener, Streams) {
    let path = dir.join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    let streams = Streams::new(&path).unwrap();
    (listener, streams)
}

#[tokio::test]
async fn a_stream_begins_with_its_port_and_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, streams) = streams(dir.path());
    let io = ProcessIo {
        stdout: Endpoint::Path("/dev/null".into()),
        terminal: true,
        ..ProcessIo::default()
    };
    let pending = streams.prepare(io).unwrap();
    let token = pending.request().stdout;
    assert!(token != 0 && pending.request().stdin == 0 && pending.request().stderr == 0);

    let guest = async {
        let (mut stream, hello) = accept_hello(&listener).await;
        let (line, said) = hello.split_at(hello.len() - 8);
        assert_eq!(line, b"CONNECT 1025\n");
        assert_eq!(said, token.to_le_bytes());
        stream.write_all(b"OK 1073741824\nall of it").await.unwrap();
    };
    let (stdio, ()) = tokio::join!(pending.connect(), guest);
    let stdio = stdio.unwrap();
    let mut progress = stdio.outputs().pop().unwrap();
    assert!(progress.received(9, Duration::from_secs(10)).await);
}

#[tokio::test]
async fn what_is_no_answer_of_a_vmm_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, streams) = streams(dir.path());
    let endless = vec![b'O'; 1 << 20];
    for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n", &endless] {
        let vmm = async {
            let (mut stream, _) = accept_hello(&listener).await;
            // The stand-in's connection may be closed early.
            let _ = stream.write_all(answer).await;
        };
        let (opened, ()) = tokio::join!(streams.open(7), vmm);
        let error = opened.unwrap_err();
        assert!(
            matches!(error, Error::Guest(GuestError::Stream(_))),
            "{error}"
        );
    }
}

/// A VMM that was taken over can replace its socket, and put other files beside it.
#[tokio::test]
async fn a_link_in_place_of_the_socket_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, streams) = streams(dir.path());
    let (path, of_the_host) = (dir.path().join("vsock"), dir.path().join("containerd.sock"));
    let victim = UnixListener::bind(&of_the_host).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&of_the_host, &path).unwrap();

    assert!(Streams::new(&path).is_err());
    let vmm = async {
        tokio::select! {
            (mut stream, _) = accept_hello(&listener) => stream.write_all(b"OK 1\n").await.unwrap(),
            _ = victim.accept() => panic!("another socket of the host was connected to"),
        }
    };
    let (opened, ()) = tokio::join!(streams.open(7), vmm);
    opened.unwrap();
}
