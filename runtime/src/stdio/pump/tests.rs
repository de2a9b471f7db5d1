//! Streams between a guest and the endpoints of a client: no data is lost.

use super::*;

use std::io::Read;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn fifo(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

#[tokio::test]
async fn output_is_taken_in_though_nobody_reads_and_handed_over_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "out");
    let (mut guest, host) = UnixStream::pair().unwrap();
    let pump = OutputPump::start(host, Sink::open(Endpoint::Path(path.clone())).unwrap());
    // Kept open, as by a reader that does not read.
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    let data: Vec<u8> = (0..6 << 20).map(|n: u32| n as u8).collect();
    let total = data.len() as u64;

    let sent = data.clone();
    let writer = tokio::spawn(async move { guest.write_all(&sent).await.map(|()| guest) });
    let mut progress = pump.progress();
    assert!(progress.received(total, SOON).await);
    assert!(!progress.written(Duration::from_millis(20)).await);
    drop(writer.await.unwrap().unwrap());

    let got = tokio::task::spawn_blocking(move || {
        let mut got = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        while got.len() < total as usize {
            match reader.read(&mut chunk) {
                Ok(n) => got.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
        got
    });
    assert!(got.await.unwrap() == data);
    assert!(progress.written(SOON).await);
}

#[tokio::test]
async fn a_claim_of_more_than_was_sent_ends_with_the_stream() {
    let (guest, host) = UnixStream::pair().unwrap();
    let pump = OutputPump::start(host, Sink::open(Endpoint::None).unwrap());
    let mut progress = pump.progress();
    assert!(!progress.received(u64::MAX, Duration::from_millis(20)).await);
    drop(guest);
    assert!(progress.received(u64::MAX, SOON).await);
}

#[tokio::test]
async fn stdin_stays_open_for_further_clients_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "in");
    let (mut guest, host) = UnixStream::pair().unwrap();
    let source = InputSource::open(Endpoint::Path(path.clone())).unwrap();
    let mut pump = InputPump::new(source, host);
    // The input is not read yet: a client that comes early waits.
    let early = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    assert_eq!(early.unwrap_err().raw_os_error(), Some(libc::ENXIO));
    pump.start();
    for word in ["one", "two"] {
        tokio::fs::write(&path, word).await.unwrap();
        let mut got = [0; 3];
        guest.read_exact(&mut got).await.unwrap();
        assert_eq!(got, word.as_bytes());
    }
    pump.close();
    let mut rest = Vec::new();
    guest.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[test]
fn an_address_that_is_not_a_file_is_refused_by_name() {
    let end = Endpoint::Path("binary:///bin/logger".into());
    let error = Sink::open(end).unwrap_err().to_string();
    assert!(error.contains("binary:///bin/logger"), "{error}");
}

/// Pumps the words of a process to an end; returns when they are written.
async fn delivered(end: Endpoint, words: &str) {
    let (mut guest, host) = UnixStream::pair().unwrap();
    let pump = OutputPump::start(host, Sink::open(end).unwrap());
    guest.write_all(words.as_bytes()).await.unwrap();
    drop(guest);
    let mut progress = pump.progress();
    assert!(progress.received(words.len() as u64, SOON).await);
    assert!(progress.written(SOON).await);
}

#[tokio::test]
async fn output_goes_to_files_descriptors_and_streams() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let uri = format!("file://{}", path.display());
    for words in ["one", "two"] {
        delivered(Endpoint::Path(uri.clone().into()), words).await;
    }
    delivered(Endpoint::Path(path.clone()), "three").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "onetwothree");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "output may be secret");
    delivered(Endpoint::None, "nothing").await;

    let file = std::fs::File::create(&path).unwrap();
    delivered(Endpoint::Fd(file.into()), "descriptor").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "descriptor");
    let (mut client, end) = tokio::io::duplex(64);
    delivered(Endpoint::Stream(end), "stream").await;
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "stream");

    let missing = dir.path().join("none");
    match Sink::open(Endpoint::Path(missing.clone())).unwrap_err() {
        Error::BadFile { path, .. } => assert_eq!(path, missing),
        other => panic!("{other:?}"),
    }
    assert!(!missing.exists(), "only file:// makes a file");
}

/// What a process reads from an end.
async fn read(end: Endpoint) -> String {
    let (mut guest, host) = UnixStream::pair().unwrap();
    let mut pump = InputPump::new(InputSource::open(end).unwrap(), host);
    pump.start();
    let mut got = String::new();
    let read = tokio::time::timeout(SOON, guest.read_to_string(&mut got));
    read.await.unwrap().unwrap();
    got
}

#[tokio::test]
async fn input_comes_from_files_descriptors_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in");
    std::fs::write(&path, "text").unwrap();
    assert_eq!(read(Endpoint::Path(path.clone())).await, "text");
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(read(Endpoint::Fd(file.into())).await, "text");
    assert_eq!(read(Endpoint::None).await, "");
    let (mut client, end) = tokio::io::duplex(64);
    client.write_all(b"stream").await.unwrap();
    drop(client);
    assert_eq!(read(Endpoint::Stream(end)).await, "stream");
    let missing = dir.path().join("none");
    match InputSource::open(Endpoint::Path(missing.clone())).unwrap_err() {
        Error::BadFile { path, .. } => assert_eq!(path, missing),
        other => panic!("{other:?}"),
    }
    // A FIFO is not open before its process starts.
    let source = InputSource::open(Endpoint::Path(fifo(dir.path(), "fifo")));
    let early = source.unwrap().read(&mut [0]).await.unwrap_err();
    assert_eq!(early.kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn what_has_arrived_is_delivered_after_the_end() {
    let (mut client, end) = tokio::io::duplex(4);
    let (mut guest, host) = UnixStream::pair().unwrap();
    let pump = OutputPump::start(host, Sink::open(Endpoint::Stream(end)).unwrap());
    guest.write_all(b"12345678").await.unwrap();
    let mut progress = pump.progress();
    assert!(progress.received(8, SOON).await);
    assert!(!progress.written(Duration::from_millis(20)).await);
    pump.finish();
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "12345678");
    // It receives no more.
    let mut rest = [0; 1];
    let end = tokio::time::timeout(SOON, guest.read(&mut rest)).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_pump_that_is_dropped_moves_nothing() {
    let (mut client, end) = tokio::io::duplex(64);
    let (mut guest, host) = UnixStream::pair().unwrap();
    drop(OutputPump::start(
        host,
        Sink::open(Endpoint::Stream(end)).unwrap(),
    ));
    let _ = guest.write_all(b"late").await;
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got.is_empty());

    let (mut client, end) = tokio::io::duplex(64);
    let (mut guest, host) = UnixStream::pair().unwrap();
    let source = InputSource::open(Endpoint::Stream(end)).unwrap();
    let mut pump = InputPump::new(source, host);
    pump.start();
    drop(pump);
    let _ = client.write_all(b"late").await;
    guest.read_to_end(&mut got).await.unwrap();
    assert!(got.is_empty());
}
