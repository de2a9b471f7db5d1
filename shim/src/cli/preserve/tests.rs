//! Passing descriptors to a process in a container.

use super::*;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

fn found(fd: &impl AsRawFd) -> Result<(Direction, bool), DescriptorError> {
    look(fd.as_raw_fd() as u32)
}

fn direction(fd: &impl AsRawFd) -> Direction {
    found(fd).unwrap().0
}

#[test]
fn the_way_is_that_of_the_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let written = File::create(&path).unwrap();
    assert_eq!(direction(&written), Direction::Out);
    assert_eq!(direction(&File::open(&path).unwrap()), Direction::In);
    let (read, write) = io::pipe().unwrap();
    assert_eq!(direction(&read), Direction::In);
    assert_eq!(direction(&write), Direction::Out);
    let (socket, _peer) = UnixStream::pair().unwrap();
    assert_eq!(found(&socket).unwrap(), (Direction::Both, true));
    let null = File::options().read(true).write(true).open("/dev/null");
    assert_eq!(direction(&null.unwrap()), Direction::Both);
}

#[test]
fn what_is_no_stream_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "").unwrap();
    let both = File::options().read(true).write(true).open(&path).unwrap();
    assert!(matches!(
        found(&both),
        Err(DescriptorError::BothWays { .. })
    ));
    let folder = File::open(dir.path()).unwrap();
    let no_stream = |fd: &dyn AsRawFd| match look(fd.as_raw_fd() as u32) {
        Err(DescriptorError::NoStream { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert!(no_stream(&folder).contains("directory"));
    let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    assert!(no_stream(&listener).contains("not a connected stream"));
    let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert!(no_stream(&datagrams).contains("not a connected stream"));
    // A number that is never open.
    assert!(matches!(
        look(1_000_000),
        Err(DescriptorError::NotOpen { number: 1_000_000 })
    ));
}

#[test]
fn what_cannot_be_asked_for_is_refused_before_anything_is_taken() {
    let problem = |preserve_fds, preserve_fd: &[u32]| {
        let mut asked = Preserve {
            preserve_fds,
            preserve_fd: preserve_fd.to_vec(),
            taken: Vec::new(),
        };
        match asked.take().unwrap_err() {
            crate::error::Error::Runtime(Error::Descriptor(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(
        problem(65, &[]),
        DescriptorError::TooMany { count: 65, .. }
    ));
    for number in [2, 1024] {
        match problem(0, &[number]) {
            DescriptorError::OutOfRange { number: found, .. } => assert_eq!(found, number),
            other => panic!("{other:?}"),
        }
    }
}

/// A served descriptor, and the socket's other end.
fn served(
    fd: impl Into<OwnedFd>,
    direction: Direction,
    socket: bool,
) -> (oneshot::Receiver<()>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let preserved = Preserved {
        number: 3,
        direction,
        socket,
        fd: fd.into(),
    };
    (preserved.serve(ours).unwrap(), theirs)
}

#[test]
fn a_pipe_that_somebody_made_non_blocking_is_waited_for() {
    let (read, mut write) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let (_, mut owner) = served(read, Direction::In, false);
    let sender = std::thread::spawn(move || write.write_all(&[7; 300_000]));
    let mut all = Vec::new();
    owner.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_000);
    sender.join().unwrap().unwrap();
}

#[test]
fn output_is_done_when_it_is_written_and_its_reader_hears_the_end() {
    let (mut read, write) = io::pipe().unwrap();
    let (written, mut owner) = served(write, Direction::Out, false);
    owner.write_all(b"words").unwrap();
    drop(owner);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "words");
    written.blocking_recv().unwrap();
}

#[test]
fn a_reader_that_is_gone_is_a_broken_pipe_to_the_owner() {
    let (read, write) = io::pipe().unwrap();
    drop(read);
    let (written, mut owner) = served(write, Direction::Out, false);
    while owner.write_all(&[0; 4096]).is_ok() {}
    written.blocking_recv().unwrap();
}

#[test]
fn each_way_of_a_socket_ends_by_itself() {
    let (ours, mut caller) = UnixStream::pair().unwrap();
    let (written, mut owner) = served(ours, Direction::Both, true);
    caller.write_all(b"question").unwrap();
    caller.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    owner.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    owner.write_all(b"answer").unwrap();
    owner.shutdown(Shutdown::Write).unwrap();
    text.clear();
    caller.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    written.blocking_recv().unwrap();
}
