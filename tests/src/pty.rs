//! A command on a real pseudo-terminal.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use crate::capture::Capture;
use crate::process;
use crate::run::Output;

/// A terminal with a command on it.
pub struct Terminal {
    child: Child,
    master: File,
    since: Instant,
    /// The output on the screen so far.
    pub screen: Capture,
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    /// Starts `command` in a session of its own on this terminal.
    #[track_caller]
    pub fn spawn(mut command: Command, rows: u16, columns: u16) -> Self {
        let pty = openpty(&winsize(rows, columns), None).expect("openpty");
        let again = |fd: &OwnedFd| fd.try_clone().expect("dup");
        command
            .stdin(Stdio::from(again(&pty.slave)))
            .stdout(Stdio::from(again(&pty.slave)))
            .stderr(Stdio::from(pty.slave));
        // SAFETY: only async-signal-safe calls between fork and exec; fd 0 is
        // the slave by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // A shell starts background commands with SIGINT ignored.
                if libc::signal(libc::SIGINT, libc::SIG_DFL) == libc::SIG_ERR {
                    return Err(std::io::Error::last_os_error());
                }
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let since = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        // Drops this process's copies of the slave, which would keep the screen open.
        drop(command);
        Self {
            child,
            screen: Capture::of(File::from(again(&pty.master))),
            master: File::from(pty.master),
            since,
        }
    }

    /// The command's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("write to a pty");
    }

    /// Changes the window size; the kernel sends SIGWINCH to the foreground process.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = winsize(rows, columns);
        // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0, "TIOCSWINSZ: {}", std::io::Error::last_os_error());
    }

    /// Resizes to `rows` × `columns` repeatedly, until `text` is on the screen after the first
    /// `from` bytes: `ctr` first reads the window size some time before it watches for changes,
    /// and does not say when.
    #[track_caller]
    pub fn resize_until(
        &self,
        rows: u16,
        columns: u16,
        from: usize,
        text: &str,
        limit: Duration,
    ) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            self.resize(rows, columns - 1);
            self.resize(rows, columns);
            let shown = self.screen.wait(Duration::from_millis(300), |said| {
                let tail = said.bytes.get(from..)?;
                tail.windows(text.len())
                    .any(|window| window == text.as_bytes())
                    .then_some(())
            });
            if shown.is_some() || Instant::now() > deadline {
                return self.screen.expect_after(from, text, Duration::ZERO);
            }
        }
    }

    /// Whether the line discipline echoes and edits input: not while a command has made the
    /// terminal raw.
    pub fn is_cooked(&self) -> bool {
        let settings = nix::sys::termios::tcgetattr(&self.master).expect("tcgetattr");
        settings
            .local_flags
            .contains(nix::sys::termios::LocalFlags::ICANON)
    }

    /// Waits for the command's end; kills it and panics after `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let ended = process::wait_gone(self.pid(), limit);
        if !ended {
            let _ = self.child.kill();
        }
        let code = {
            use std::os::unix::process::ExitStatusExt;
            let status = self.child.wait().expect("our child");
            status
                .code()
                .or_else(|| status.signal().map(|s| 128 + s))
                .expect("an exit or a signal")
        };
        let elapsed = self.since.elapsed();
        let output = Output {
            stdout: self.screen.finish(Duration::from_secs(2)),
            stderr: Default::default(),
            code,
            elapsed,
        };
        assert!(
            ended,
            "the command on the terminal did not end within {limit:?}: {output:?}"
        );
        output
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
