//! The connections of a process to its streams.
//!
//! ```text
//! host ──vsock──▶ input pump  ──▶ pipe ──▶ stdin          no terminal
//! host ◀──vsock── output pump ◀── pipe ◀── stdout, stderr
//!
//! host ──vsock──▶ input pump  ──▶ pty master              terminal
//! host ◀──vsock── output pump ◀── pty master
//! ```
//! Further descriptors are served in the same way (`descriptor`). The container never holds a
//! vsock socket, so a process that outlives its container's init keeps no stream of the agent
//! open.

pub(crate) mod descriptor;
pub(crate) mod listener;
pub(crate) mod pump;
pub(crate) mod stream;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::pty::Winsize;
use protos::agent;

use crate::error::{Context, Result};
use crate::stdio::descriptor::{Descriptor, Numbered, Served};
use crate::stdio::listener::Arrivals;
use crate::stdio::pump::{End, Input, Output};
use crate::stdio::stream::{Stream, duplicate, pipe};
use crate::sync::lock;

/// The connected vsock streams of a process that does not run yet.
#[derive(Default)]
pub struct Connections {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    descriptors: Vec<Descriptor>,
}

/// The bytes that a process has written to each of its streams.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub stdout: u64,
    pub stderr: u64,
    /// 0 for a descriptor that is only read.
    pub descriptors: Vec<u64>,
}

impl Connections {
    /// Takes every stream that the request names; the host may open them later.
    pub async fn take(arrivals: &Arrivals, wanted: &agent::Stdio) -> Result<Connections> {
        descriptor::numbers(&wanted.descriptors)?;
        let descriptors = wanted.descriptors.iter();
        let descriptors = descriptors.map(|one| Descriptor::take(arrivals, one));
        let (stdin, stdout, stderr, descriptors) = futures::try_join!(
            arrivals.take(wanted.stdin),
            arrivals.take(wanted.stdout),
            arrivals.take(wanted.stderr),
            futures::future::try_join_all(descriptors),
        )?;
        Ok(Connections {
            stdin,
            stdout,
            stderr,
            descriptors,
        })
    }

    /// Makes the process's further descriptors and their pumps.
    pub fn descriptors(&mut self) -> Result<(Vec<Numbered>, Vec<Served>)> {
        let opened = self.descriptors.drain(..).map(Descriptor::open);
        Ok(opened.collect::<Result<Vec<_>>>()?.into_iter().unzip())
    }

    /// Makes the pipes: the ends of the process, and the pumps that will serve it. `None` means
    /// /dev/null.
    pub fn pipes(self) -> Result<([Option<OwnedFd>; 3], Stdio)> {
        let mut stdio = Stdio::default();
        let mut ends = [None, None, None];
        if let Some(stream) = self.stdin {
            let (read, write) = pipe().what("stdin pipe")?;
            let write = Stream::new(write).what("stdin")?;
            let input = Input::start(Arc::new(stream), Arc::new(write), End::Pipe);
            stdio.stdin = Mutex::new(Some(input));
            ends[0] = Some(read);
        }
        let outputs = [(self.stdout, 1), (self.stderr, 2)];
        for (stream, i) in outputs {
            let Some(stream) = stream else { continue };
            let (read, write) = pipe().what("output pipe")?;
            let read = Stream::new(read).what("output")?;
            let output = Output::start(Arc::new(read), Some(Arc::new(stream)), End::Pipe);
            ends[i] = Some(write);
            match i {
                1 => stdio.stdout = Some(output),
                _ => stdio.stderr = Some(output),
            }
        }
        Ok((ends, stdio))
    }

    /// Connects the streams to the two directions of a pty.
    pub fn terminal(self, master: OwnedFd) -> Result<Stdio> {
        let mut stdio = Stdio::default();
        if let Some(stream) = self.stdin {
            let write = duplicate(&master).what("pty master")?;
            let write = Stream::new(write).what("stdin")?;
            let input = Input::start(Arc::new(stream), Arc::new(write), End::Pty);
            stdio.stdin = Mutex::new(Some(input));
        }
        // Read even without a receiver, since the process would block otherwise.
        let read = duplicate(&master).what("pty master")?;
        let read = Stream::new(read).what("output")?;
        let to = self.stdout.map(Arc::new);
        stdio.stdout = Some(Output::start(Arc::new(read), to, End::Pty));
        stdio.master = Some(master);
        Ok(stdio)
    }
}

/// The pumps of a running process; they stop when this is dropped.
#[derive(Default)]
pub struct Stdio {
    stdin: Mutex<Option<Input>>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    descriptors: Vec<Served>,
    master: Option<OwnedFd>,
}

impl Stdio {
    /// Adds the pumps of the process's further descriptors.
    pub fn with(mut self, descriptors: Vec<Served>) -> Stdio {
        self.descriptors = descriptors;
        self
    }

    /// Ends the input: a process on a pipe reads EOF.
    pub fn close_stdin(&self) {
        lock(&self.stdin).take();
    }

    /// Ends the input of its further descriptors, too.
    pub fn close_inputs(&self) {
        self.close_stdin();
        self.descriptors.iter().for_each(Served::close_input);
    }

    /// Stops all pumps; a drain that waits for one returns.
    pub fn stop(&self) {
        self.close_inputs();
        let descriptors = self.descriptors.iter().filter_map(Served::output);
        let outputs = self.stdout.iter().chain(&self.stderr).chain(descriptors);
        outputs.for_each(Output::stop);
    }

    /// The number of bytes that the process has written to each stream so far. All of them have
    /// been sent.
    pub async fn drain(&self) -> Written {
        let descriptors = self.descriptors.iter().map(|one| drain(one.output()));
        let (stdout, stderr, descriptors) = futures::join!(
            drain(self.stdout.as_ref()),
            drain(self.stderr.as_ref()),
            futures::future::join_all(descriptors),
        );
        Written {
            stdout,
            stderr,
            descriptors,
        }
    }

    /// Sets the size of the terminal; false without a terminal.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<bool> {
        match &self.master {
            Some(master) => resize(master, width, height).map(|()| true),
            None => Ok(false),
        }
    }
}

fn resize(tty: &impl AsRawFd, width: u16, height: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the terminal is open and the size lives through the call.
    match unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

async fn drain(output: Option<&Output>) -> u64 {
    match output {
        Some(output) => output.drain().await,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::stdio::stream::connection;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn input_ends_on_request_with_any_data_in_the_stream() {
        let (stream, mut host) = connection();
        let connections = Connections {
            stdin: Some(stream),
            ..Default::default()
        };
        let (ends, stdio) = connections.pipes().unwrap();
        let mut process = std::fs::File::from(ends.into_iter().next().flatten().unwrap());
        host.write_all(b"line\n").unwrap();
        let mut buffer = [0; 5];
        let (mut process, line) = tokio::task::spawn_blocking(move || {
            process.read_exact(&mut buffer).unwrap();
            (process, buffer)
        })
        .await
        .unwrap();
        assert_eq!(&line, b"line\n");
        stdio.close_stdin();
        let rest = tokio::task::spawn_blocking(move || process.read(&mut [0; 8]));
        assert_eq!(rest.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_terminal_is_drained_without_an_end() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (stream, mut host) = connection();
        let connections = Connections {
            stdout: Some(stream),
            ..Default::default()
        };
        let stdio = connections.terminal(pty.master).unwrap();
        let mut slave = std::fs::File::from(pty.slave);
        slave.write_all(b"prompt").unwrap();
        assert_eq!(stdio.drain().await.stdout, 6);
        let mut text = [0; 6];
        host.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"prompt");
        assert!(stdio.resize(80, 25).unwrap());
    }

    /// A connection whose stdout and stderr lead to these.
    fn outputs() -> (Connections, UnixStream, UnixStream) {
        let ((stdout, out), (stderr, err)) = (connection(), connection());
        let connections = Connections {
            stdout: Some(stdout),
            stderr: Some(stderr),
            ..Default::default()
        };
        (connections, out, err)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn each_output_goes_to_its_stream_and_is_counted() {
        let (connections, mut out, mut err) = outputs();
        let (ends, stdio) = connections.pipes().unwrap();
        let [None, Some(stdout), Some(stderr)] = ends else {
            panic!("stdout and stderr");
        };
        File::from(stdout).write_all(b"out").unwrap();
        File::from(stderr).write_all(b"error").unwrap();
        let written = stdio.drain().await;
        assert_eq!((written.stdout, written.stderr), (3, 5));
        assert!(written.descriptors.is_empty());
        let mut texts = [String::new(), String::new()];
        let texts = tokio::task::spawn_blocking(move || {
            out.read_to_string(&mut texts[0]).unwrap();
            err.read_to_string(&mut texts[1]).unwrap();
            texts
        });
        assert_eq!(texts.await.unwrap(), ["out", "error"]);
        assert!(!stdio.resize(80, 24).unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_stop_ends_all_streams_though_their_other_ends_are_open() {
        let (connections, mut out, mut err) = outputs();
        let (stdin, _host) = connection();
        let connections = Connections {
            stdin: Some(stdin),
            ..connections
        };
        let (ends, stdio) = connections.pipes().unwrap();
        let stdin = ends[0].as_ref().unwrap().try_clone().unwrap();
        stdio.stop();
        let read = tokio::task::spawn_blocking(move || {
            let mut stdin = File::from(stdin);
            [&mut out as &mut dyn Read, &mut err, &mut stdin]
                .map(|from| from.read(&mut [0]).unwrap())
        });
        assert_eq!(read.await.unwrap(), [0; 3]);
        drop(ends);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_terminal_has_input_a_size_and_outlives_the_end_of_its_input() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (stdin, mut host) = connection();
        let connections = Connections {
            stdin: Some(stdin),
            ..Default::default()
        };
        let stdio = connections.terminal(pty.master).unwrap();
        assert!(stdio.resize(132, 50).unwrap());
        let mut size = Winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the terminal is open and the size lives through the call.
        unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
        assert_eq!((size.ws_col, size.ws_row), (132, 50));
        host.write_all(b"line\n").unwrap();
        drop(host);
        let mut slave = File::from(pty.slave);
        let mut text = [0; 5];
        let text = tokio::task::spawn_blocking(move || {
            slave.read_exact(&mut text).unwrap();
            slave.write_all(b"still there").unwrap();
            text
        });
        assert_eq!(&text.await.unwrap(), b"line\n");
        let no_terminal = File::open("/dev/null").unwrap();
        let refused = resize(&no_terminal, 1, 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn all_streams_that_a_request_names_are_taken() {
        let arrivals = Arrivals::new(std::time::Duration::from_secs(20));
        let mut wanted = agent::Stdio {
            stdin: 1,
            stdout: 2,
            ..Default::default()
        };
        wanted.descriptors.push(agent::Descriptor {
            number: 5,
            token: 3,
            ..Default::default()
        });
        let mut hosts = Vec::new();
        for token in 1..=3 {
            let (stream, host) = connection();
            tokio::spawn(arrivals.clone().keep(token, stream));
            hosts.push(host);
        }
        let mut taken = Connections::take(&arrivals, &wanted).await.unwrap();
        assert!(taken.stdin.is_some() && taken.stdout.is_some() && taken.stderr.is_none());
        let (numbered, served) = taken.descriptors().unwrap();
        let numbers: Vec<u32> = numbered.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, served.len()), (vec![5], 1));
        let stdio = taken.pipes().unwrap().1.with(served);
        assert_eq!(stdio.drain().await.descriptors, [0]);
        wanted.descriptors[0].number = 1;
        let refused = Connections::take(&arrivals, &wanted).await.err().unwrap();
        assert!(matches!(refused, crate::error::Error::InvalidValue { .. }));
    }
}
