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

/// The agent's ends of the streams with these tokens.
async fn accept(listener: &UnixListener, tokens: &[u64]) -> Vec<UnixStream> {
    let mut found: Vec<Option<UnixStream>> = tokens.iter().map(|_| None).collect();
    for _ in tokens {
        let (mut stream, hello) = accept_hello(listener).await;
        let token = u64::from_le_bytes(hello[hello.len() - 8..].try_into().unwrap());
        let n = tokens.iter().position(|known| *known == token).unwrap();
        stream.write_all(b"OK 1\n").await.unwrap();
        found[n] = Some(stream);
    }
    found.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn each_stream_of_a_process_leads_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, streams) = streams(dir.path());
    let [(mut input, stdin), (mut out, stdout), (mut err, stderr)] =
        [(); 3].map(|()| tokio::io::duplex(64));
    let io = ProcessIo {
        stdin: Endpoint::Stream(stdin),
        stdout: Endpoint::Stream(stdout),
        stderr: Endpoint::Stream(stderr),
        ..ProcessIo::default()
    };
    let pending = streams.prepare(io).unwrap();
    let request = pending.request();
    let tokens = [request.stdin, request.stdout, request.stderr];
    assert!(!request.terminal && tokens.iter().all(|token| *token != 0));
    let (stdio, mut agent) = tokio::join!(pending.connect(), accept(&listener, &tokens));
    let mut stdio = stdio.unwrap();
    assert_eq!(stdio.outputs().len(), 2);
    for (stream, words) in [(1, b"out"), (2, b"err")] {
        agent[stream].write_all(words).await.unwrap();
    }
    let answer = WaitProcessResponse {
        stdout_bytes: 3,
        stderr_bytes: 3,
        ..Default::default()
    };
    let written = stdio.written(&answer);
    assert_eq!(written.len(), 2);
    for (mut progress, total) in written {
        assert_eq!(total, 3);
        assert!(progress.received(total, Duration::from_secs(10)).await);
    }
    let mut got = [0; 3];
    out.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"out");
    err.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"err");

    stdio.start_input();
    input.write_all(b"in").await.unwrap();
    let mut got = [0; 2];
    agent[0].read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"in");
    stdio.stop_input();
    let end = agent[0].read(&mut got).await.unwrap();
    assert_eq!(end, 0, "the process gets no more");
}

#[tokio::test]
async fn a_terminal_has_no_error_output_and_what_is_not_connected_no_stream() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, streams) = streams(dir.path());
    let io = ProcessIo {
        stderr: Endpoint::Path("/dev/null".into()),
        terminal: true,
        ..ProcessIo::default()
    };
    let request = streams.prepare(io).unwrap().request();
    assert!(request.terminal);
    assert_eq!((request.stdin, request.stdout, request.stderr), (0, 0, 0));
    let stdio = streams
        .prepare(ProcessIo::default())
        .unwrap()
        .connect()
        .await
        .unwrap();
    assert!(stdio.outputs().is_empty());
    assert!(stdio.written(&WaitProcessResponse::default()).is_empty());
    assert_eq!(Endpoint::None.path(), None);
    assert_eq!(Endpoint::Path("/x".into()).path(), Some(Path::new("/x")));
}
