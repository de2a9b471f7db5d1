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
