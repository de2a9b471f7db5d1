//! Descriptors of a process other than stdin, stdout and stderr, connected to streams of the
//! host.
//!
//! ```text
//! host ──vsock──▶ input pump  ──▶ pipe          IN: the process has the read end
//! host ◀──vsock── output pump ◀── pipe          OUT: the process has the write end
//! host ◀─vsock─▶  both pumps  ◀─▶ socket pair   BOTH: each direction ends separately
//! ```

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use protos::agent::{self, Direction};
use protos::{FIRST_DESCRIPTOR, HIGHEST_DESCRIPTOR, MAX_DESCRIPTORS};

use crate::error::{Context, Error, Result};
use crate::stdio::listener::Arrivals;
use crate::stdio::pump::{End, Input, Output};
use crate::stdio::stream::{Stream, pipe};
use crate::sync::lock;

/// A descriptor of a process, with its number.
pub type Numbered = (u32, OwnedFd);

/// The open descriptors of a new process.
#[derive(Default)]
pub struct Ends {
    /// `None` means /dev/null, or the terminal if there is one.
    pub stdio: [Option<OwnedFd>; 3],
    pub descriptors: Vec<Numbered>,
}

/// The numbers of the requested descriptors, if they are valid.
pub fn numbers(wanted: &[agent::Descriptor]) -> Result<Vec<u32>> {
    if wanted.len() > MAX_DESCRIPTORS {
        let count = wanted.len();
        let expected = format!("at most {MAX_DESCRIPTORS}");
        return Err(Error::invalid("number of descriptors", count, expected));
    }
    let mut numbers = Vec::with_capacity(wanted.len());
    for descriptor in wanted {
        let number = descriptor.number;
        if !(FIRST_DESCRIPTOR..=HIGHEST_DESCRIPTOR).contains(&number) {
            let expected = format!("{FIRST_DESCRIPTOR} to {HIGHEST_DESCRIPTOR}");
            return Err(Error::invalid("descriptor", number, expected));
        }
        if numbers.contains(&number) {
            let expected = "each number once";
            return Err(Error::invalid("descriptor", number, expected));
        }
        if descriptor.direction.enum_value().is_err() || descriptor.token == 0 {
            return Err(Error::Requires {
                what: format!("descriptor {number}").into(),
                needs: "a direction and a stream",
            });
        }
        numbers.push(number);
    }
    Ok(numbers)
}

/// The connected stream of a descriptor whose process does not run yet.
pub struct Descriptor {
    number: u32,
    direction: Direction,
    stream: Stream,
}

impl Descriptor {
    /// Takes the stream of a descriptor that has passed [`numbers`].
    pub async fn take(arrivals: &Arrivals, wanted: &agent::Descriptor) -> Result<Descriptor> {
        let stream = arrivals.take(wanted.token).await?;
        Ok(Descriptor {
            number: wanted.number,
            direction: wanted.direction.enum_value_or_default(),
            stream: stream.ok_or(Error::Missing("the token of a descriptor"))?,
        })
    }

    /// Makes the process's end, and starts the pumps.
    pub fn open(self) -> Result<(Numbered, Served)> {
        let what = || format!("descriptor {}", self.number);
        let stream = Arc::new(self.stream);
        let mut served = Served::default();
        let end = match self.direction {
            Direction::IN => {
                let (read, write) = pipe().what(what())?;
                let ours = Arc::new(Stream::new(write).what(what())?);
                served.input = Mutex::new(Some(Input::start(stream, ours, End::Pipe)));
                read
            }
            Direction::OUT => {
                let (read, write) = pipe().what(what())?;
                let ours = Arc::new(Stream::new(read).what(what())?);
                served.output = Some(Output::start(ours, Some(stream), End::Pipe));
                write
            }
            Direction::BOTH => {
                let unix = AddressFamily::Unix;
                let (ours, theirs) =
                    socketpair(unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).what(what())?;
                let ours = Arc::new(Stream::new(ours).what(what())?);
                let input = Input::start(stream.clone(), ours.clone(), End::Socket);
                served.input = Mutex::new(Some(input));
                served.output = Some(Output::start(ours, Some(stream), End::Socket));
                theirs
            }
        };
        Ok(((self.number, end), served))
    }
}

/// The pumps of a descriptor of a running process; they stop when this is dropped.
#[derive(Default)]
pub struct Served {
    input: Mutex<Option<Input>>,
    output: Option<Output>,
}

impl Served {
    /// Ends the input of the process.
    pub fn close_input(&self) {
        lock(&self.input).take();
    }

    /// The pump of its output.
    pub fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::stdio::stream::connection;

    fn wanted(number: u32) -> agent::Descriptor {
        agent::Descriptor {
            number,
            token: 1,
            ..Default::default()
        }
    }

    /// The process's end, its pumps, and the host's end.
    fn open(direction: Direction) -> (OwnedFd, Served, UnixStream) {
        let (stream, host) = connection();
        let descriptor = Descriptor {
            number: 7,
            direction,
            stream,
        };
        let ((number, end), served) = descriptor.open().unwrap();
        assert_eq!(number, 7);
        (end, served, host)
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        assert_eq!(numbers(&[wanted(3), wanted(9)]).unwrap(), [3, 9]);
        let refused = |list: &[agent::Descriptor]| match numbers(list).unwrap_err() {
            Error::InvalidValue { value, .. } => value,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[wanted(2)]), "2");
        assert_eq!(refused(&[wanted(HIGHEST_DESCRIPTOR + 1)]), "1024");
        assert_eq!(refused(&[wanted(5), wanted(5)]), "5");
        let mut without_stream = wanted(4);
        without_stream.token = 0;
        assert!(matches!(
            numbers(&[without_stream]),
            Err(Error::Requires { what, .. }) if what == "descriptor 4"
        ));
        let many: Vec<_> = (3..=67).map(wanted).collect();
        assert_eq!(refused(&many), "65");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn input_comes_through_to_its_end() {
        let (end, _served, mut host) = open(Direction::IN);
        let reader = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            File::from(end).read_to_string(&mut text).map(|_| text)
        });
        host.write_all(b"from the host").unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), "from the host");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_written_is_counted_though_its_end_stays_open() {
        for direction in [Direction::OUT, Direction::BOTH] {
            let (end, served, mut host) = open(direction);
            let mut process = File::from(end);
            process.write_all(b"12345").unwrap();
            assert_eq!(served.output().unwrap().drain().await, 5);
            let text = tokio::task::spawn_blocking(move || {
                let mut text = [0; 5];
                host.read_exact(&mut text).map(|()| text)
            });
            assert_eq!(&text.await.unwrap().unwrap(), b"12345");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn each_way_of_a_socket_ends_by_itself() {
        let (end, served, mut host) = open(Direction::BOTH);
        let mut process = UnixStream::from(end);
        let talk = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            // The host ends first, and still reads the answer.
            host.write_all(b"question").unwrap();
            host.shutdown(Shutdown::Write).unwrap();
            process.read_to_string(&mut text).unwrap();
            assert_eq!(text, "question");
            process.write_all(b"answer").unwrap();
            process.shutdown(Shutdown::Write).unwrap();
            text.clear();
            host.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(talk.await.unwrap(), "answer");
        assert_eq!(served.output().unwrap().drain().await, 6);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_host_that_is_gone_is_a_peer_that_is_gone() {
        let (end, _served, host) = open(Direction::BOTH);
        let mut process = UnixStream::from(end);
        drop(host);
        let end = tokio::task::spawn_blocking(move || {
            assert_eq!(process.read(&mut [0; 8]).unwrap(), 0);
            loop {
                if let Err(e) = process.write_all(&[0; 4096]) {
                    return e.kind();
                }
            }
        });
        // An error if it had not read all data, as with any socket.
        let end = end.await.unwrap();
        assert!(matches!(
            end,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
        ));
    }
}
