//! Running a command with its output captured and a deadline.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::capture::{Capture, Said, hex};
use crate::process;

/// The input of a command.
pub enum Input {
    /// `/dev/null`.
    Null,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
    /// This many bytes of noise, then end of file.
    Noise(u64),
    /// A pipe that stays open until [`Running::close_stdin`].
    Open,
}

/// The result of a finished command.
#[derive(Clone)]
pub struct Output {
    /// Its standard output.
    pub stdout: Said,
    /// Its standard error.
    pub stderr: Said,
    /// Its exit code; 128 + n when signal n killed it.
    pub code: i32,
    /// The time from spawn to exit.
    pub elapsed: Duration,
}

impl Output {
    /// Standard output as text.
    pub fn out(&self) -> String {
        self.stdout.text()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        self.stderr.text()
    }

    /// Panics unless the command exited with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Panics unless the command exited with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; {self:?}");
        self
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit {} after {:.2?}\nstdout ({} bytes): {}\nstderr: {}",
            self.code,
            self.elapsed,
            self.stdout.length,
            shorten(&self.out()),
            shorten(&self.err())
        )
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(4000) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A running command.
pub struct Running {
    child: Child,
    name: String,
    since: Instant,
    stdin: Option<ChildStdin>,
    /// Its standard output so far.
    pub stdout: Capture,
    /// Its standard error so far.
    pub stderr: Capture,
}

impl Running {
    /// Starts `command`.
    #[track_caller]
    pub fn spawn(mut command: Command, input: Input) -> Self {
        let name = format!("{command:?}");
        let since = Instant::now();
        let mut child = command
            .stdin(if matches!(input, Input::Null) {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        let mut stdin = child.stdin.take();
        match input {
            Input::Null | Input::Open => {}
            Input::Bytes(bytes) => feed(stdin.take(), move |pipe| pipe.write_all(&bytes)),
            Input::Noise(length) => feed(stdin.take(), move |pipe| {
                noise(length, |b| pipe.write_all(b))
            }),
        }
        Self {
            child,
            name,
            since,
            stdin,
            stdout,
            stderr,
        }
    }

    /// The command's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) {
        let pipe = self.stdin.as_mut().expect("started with Input::Open");
        pipe.write_all(bytes).expect("the command reads its input");
        pipe.flush().expect("the command reads its input");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        process::signal(self.pid(), signal);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for its end. Kills it, panics and shows its output if it does not end within
    /// `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let ended = process::wait_gone(self.pid(), limit);
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("our child");
        let elapsed = self.since.elapsed();
        let output = Output {
            stdout: self.stdout.finish(Duration::from_secs(2)),
            stderr: self.stderr.finish(Duration::from_secs(2)),
            code: code(status),
            elapsed,
        };
        assert!(
            ended,
            "{} did not end within {limit:?}: {output:?}",
            self.name
        );
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn feed(
    pipe: Option<ChildStdin>,
    write: impl FnOnce(&mut ChildStdin) -> std::io::Result<()> + Send + 'static,
) {
    let mut pipe = pipe.expect("piped");
    // A command may end before it has read everything.
    std::thread::spawn(move || drop(write(&mut pipe)));
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .expect("an exit or a signal")
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: Command, input: Input, limit: Duration) -> Output {
    Running::spawn(command, input).finish(limit)
}

/// Makes `length` bytes of xorshift noise, in pieces.
pub fn noise<E>(length: u64, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = length;
    let mut buffer = vec![0; 128 << 10];
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = left.min(buffer.len() as u64);
        sink(&buffer[..count as usize])?;
        left -= count;
    }
    Ok(())
}

/// SHA-256 of what [`noise`] makes.
pub fn noise_sha256(length: u64) -> String {
    let mut digest = Sha256::new();
    let _ = noise::<()>(length, |bytes| {
        digest.update(bytes);
        Ok(())
    });
    hex(&digest.finalize())
}
