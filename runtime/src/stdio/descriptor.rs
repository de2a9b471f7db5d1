//! Descriptors of a process beside stdin, stdout and stderr: each is a vsock stream of its own,
//! connected to a socket from the client.
//!
//! ```text
//! client ─ socket ─ pumps ─ Unix socket ─ rust-kata-vmm ═ vsock ═ agent ─ pipe or socket ─ process
//! ```
//!
//! The client's end is a socket that serves the descriptor, never the descriptor itself. So
//! nothing here waits for another program's open file, or reads data from it.

use std::fmt;
use std::os::unix::net::UnixStream;

use protos::agent as api;
use protos::{FIRST_DESCRIPTOR, HIGHEST_DESCRIPTOR, MAX_DESCRIPTORS};
use serde::{Deserialize, Serialize};

use crate::error::{DescriptorError, Result};
use crate::stdio::pump::{InputPump, InputSource, OutputPump, Sink};

/// The direction of a descriptor's bytes, from its process's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The process reads from a pipe.
    In,
    /// The process writes to a pipe.
    Out,
    /// Both directions of a socket, each of which may be shut down.
    Both,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        })
    }
}

impl From<Direction> for api::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::IN,
            Direction::Out => Self::OUT,
            Direction::Both => Self::BOTH,
        }
    }
}

impl From<api::Direction> for Direction {
    fn from(direction: api::Direction) -> Self {
        match direction {
            api::Direction::IN => Self::In,
            api::Direction::OUT => Self::Out,
            api::Direction::BOTH => Self::Both,
        }
    }
}

/// A descriptor for a process.
#[derive(Debug)]
pub struct Descriptor {
    /// Its number in the process.
    pub number: u32,
    /// The direction of its bytes.
    pub direction: Direction,
    /// This process's end of the socket; the client has the other one.
    pub client: UnixStream,
}

/// Checks the descriptor numbers of one process.
///
/// # Errors
/// [`crate::Error::Descriptor`], with the number.
pub fn check(numbers: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut seen = Vec::new();
    for number in numbers {
        if !(FIRST_DESCRIPTOR..=HIGHEST_DESCRIPTOR).contains(&number) {
            return Err(DescriptorError::OutOfRange {
                number,
                first: FIRST_DESCRIPTOR,
                last: HIGHEST_DESCRIPTOR,
            }
            .into());
        }
        if seen.contains(&number) {
            return Err(DescriptorError::Repeated { number }.into());
        }
        seen.push(number);
    }
    if seen.len() > MAX_DESCRIPTORS {
        return Err(DescriptorError::TooMany {
            count: seen.len(),
            most: MAX_DESCRIPTORS,
        }
        .into());
    }
    Ok(())
}

impl Descriptor {
    pub(crate) fn request(&self, token: u64) -> api::Descriptor {
        api::Descriptor {
            number: self.number,
            direction: api::Direction::from(self.direction).into(),
            token,
            ..Default::default()
        }
    }

    /// Starts pumping for a connected `stream`. The process gets its input once it starts.
    pub(crate) fn connect(self, stream: tokio::net::UnixStream) -> Result<DescriptorPumps> {
        let number = self.number;
        let unusable = |source| DescriptorError::Client { number, source };
        self.client.set_nonblocking(true).map_err(unusable)?;
        let client = tokio::net::UnixStream::from_std(self.client).map_err(unusable)?;
        let (from, to) = client.into_split();
        let mut pumps = DescriptorPumps::default();
        match self.direction {
            Direction::In => pumps.input = Some(InputPump::new(InputSource::Socket(from), stream)),
            Direction::Out => pumps.output = Some(OutputPump::start(stream, Sink::Socket(to))),
            Direction::Both => {
                let (read, write) = stream.into_split();
                pumps.input = Some(InputPump::of_socket(from, write));
                pumps.output = Some(OutputPump::of_socket(read, to));
            }
        }
        Ok(pumps)
    }
}

/// The pumps of a descriptor. After a drop they receive no more from the process, but still
/// deliver what they have to the client.
#[derive(Debug, Default)]
pub(crate) struct DescriptorPumps {
    input: Option<InputPump>,
    output: Option<OutputPump>,
}

impl DescriptorPumps {
    pub(crate) fn start_input(&mut self) {
        if let Some(input) = &mut self.input {
            input.start();
        }
    }

    pub(crate) fn stop_input(&mut self) {
        self.input = None;
    }

    pub(crate) fn output(&self) -> Option<&OutputPump> {
        self.output.as_ref()
    }
}

impl Drop for DescriptorPumps {
    fn drop(&mut self) {
        if let Some(output) = self.output.take() {
            output.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Running pumps, the client's end, and the guest's.
    fn connected(direction: Direction) -> (DescriptorPumps, UnixStream, UnixStream) {
        let (client, ours) = UnixStream::pair().unwrap();
        let (guest, host) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let descriptor = Descriptor {
            number: 3,
            direction,
            client: ours,
        };
        let stream = tokio::net::UnixStream::from_std(host).unwrap();
        let mut pumps = descriptor.connect(stream).unwrap();
        pumps.start_input();
        (pumps, client, guest)
    }

    fn all(mut from: UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        check([3, 1023, 7]).unwrap();
        let problem = |numbers: &[u32]| match check(numbers.iter().copied()).unwrap_err() {
            crate::Error::Descriptor(problem) => problem,
            other => panic!("{other:?}"),
        };
        for number in [2, 1024] {
            match problem(&[number]) {
                DescriptorError::OutOfRange { number: found, .. } => assert_eq!(found, number),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            problem(&[4, 5, 4]),
            DescriptorError::Repeated { number: 4 }
        ));
        let many: Vec<u32> = (3..=67).collect();
        assert!(matches!(
            problem(&many),
            DescriptorError::TooMany { count: 65, .. }
        ));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn input_ends_where_the_client_ends() {
        let (_pumps, mut client, guest) = connected(Direction::In);
        let heard = tokio::task::spawn_blocking(move || all(guest));
        client.write_all(b"words").unwrap();
        drop(client);
        assert_eq!(heard.await.unwrap(), b"words");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_that_reads_no_more_ends_what_the_client_writes() {
        let (_pumps, mut client, guest) = connected(Direction::In);
        drop(guest);
        let error = tokio::task::spawn_blocking(move || {
            loop {
                if let Err(e) = client.write_all(&[0; 4096]) {
                    return e.kind();
                }
            }
        });
        // ConnectionReset if the pump had not read everything when it ended.
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        assert!(matches!(error.await.unwrap(), BrokenPipe | ConnectionReset));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_way_of_a_socket_ends_by_itself() {
        let (_pumps, client, guest) = connected(Direction::Both);
        let pairs = [
            (client.try_clone().unwrap(), guest.try_clone().unwrap()),
            (guest, client),
        ];
        for (mut says, hears) in pairs {
            let heard = tokio::task::spawn_blocking(move || all(hears));
            says.write_all(b"words").unwrap();
            says.shutdown(Shutdown::Write).unwrap();
            assert_eq!(heard.await.unwrap(), b"words");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_came_in_is_given_to_a_slow_client_after_the_process_is_gone() {
        let (pumps, client, mut guest) = connected(Direction::Out);
        let data: Vec<u8> = (0..3 << 20).map(|n: u32| n as u8).collect();
        let total = data.len() as u64;
        let mut progress = pumps.output().unwrap().progress();
        let sent = data.clone();
        // The descriptor stays open, as if a child of the process had it.
        let writer = tokio::task::spawn_blocking(move || guest.write_all(&sent).map(|()| guest));
        assert!(progress.received(total, SOON).await);
        drop(pumps);
        let heard = tokio::task::spawn_blocking(move || all(client));
        assert!(heard.await.unwrap() == data);
        drop(writer.await.unwrap().unwrap());
    }
}
