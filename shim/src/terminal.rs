//! The terminal of `shim run` and of `rust-kata`: raw while a container uses it, and restored
//! afterwards. Also writes the program's messages to stderr.

use std::borrow::Cow;
use std::io::{IsTerminal, Write, stderr, stdin};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Context, Result};

/// The mode to restore while the terminal is raw. It is static so that a panic hook can
/// reach it.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

fn found() -> std::sync::MutexGuard<'static, Option<Termios>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminal is raw as long as this lives.
pub struct Raw(());

impl Raw {
    /// Makes the terminal of stdin raw; `None` if stdin is not a terminal.
    pub fn enter() -> Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).doing("read the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *found() = Some(before);
        std::panic::set_hook(Box::new({
            let report = std::panic::take_hook();
            move |info| {
                restore();
                report(info);
            }
        }));
        let entered = Self(());
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).doing("make the terminal raw")?;
        Ok(Some(entered))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal. Does nothing if it is not raw.
pub fn restore() {
    if let Some(before) = found().take() {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Columns and rows of stdin's terminal.
pub fn size() -> Option<(u32, u32)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let stdin = stdin();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&stdin.as_fd());
    // SAFETY: TIOCGWINSZ writes one `winsize`, which is local.
    let answer = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) };
    (answer == 0 && size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Prints a message of this program on stderr, between the container's output.
pub fn say(text: &str) {
    let end = if found().is_some() { "\r\n" } else { "\n" };
    // Without a stderr the message is lost.
    let _ = write!(stderr().lock(), "rust-kata: {}{end}", harmless(text));
}

/// Removes control characters from text that may come from the guest.
fn harmless(text: &str) -> Cow<'_, str> {
    without(text, |c| c.is_control() && c != '\n')
}

/// As [`harmless`], on one line. The length does not change.
#[cfg(feature = "cli")]
pub(crate) fn harmless_line(text: &str) -> Cow<'_, str> {
    without(text, char::is_control)
}

fn without(text: &str, steers: fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(steers) {
        Cow::Owned(text.replace(steers, "."))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_does_not_steer_the_terminal() {
        assert_eq!(harmless("a\x1b]0;x\x07\nb\u{9b}2J"), "a.]0;x.\nb.2J");
        assert_eq!(harmless_line("a\nb\x1b[2J"), "a.b.[2J");
    }

    const AGAIN: &str = "RUST_KATA_TEST_AGAIN";

    /// It runs itself, with a terminal or a file as stdin.
    #[test]
    fn the_terminal_is_raw_for_as_long_as_it_is_held() {
        use nix::sys::termios::LocalFlags;

        if let Ok(kind) = std::env::var(AGAIN) {
            let cooked = || {
                tcgetattr(stdin())
                    .unwrap()
                    .local_flags
                    .contains(LocalFlags::ICANON)
            };
            if kind == "file" {
                assert!(Raw::enter().unwrap().is_none());
                assert_eq!(size(), None);
                return;
            }
            assert_eq!(size(), Some((132, 50)));
            assert!(cooked());
            let raw = Raw::enter().unwrap().unwrap();
            assert!(!cooked());
            drop(raw);
            assert!(cooked());
            let raw = Raw::enter().unwrap();
            restore();
            assert!(cooked());
            drop(raw);
            return;
        }
        let test = "terminal::tests::the_terminal_is_raw_for_as_long_as_it_is_held";
        let again = |kind: &str, stdin: std::process::Stdio| {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test])
                .env(AGAIN, kind)
                .stdin(stdin)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(
                output.status.success() && said.contains("1 passed"),
                "{said}"
            );
        };
        let size = nix::pty::Winsize {
            ws_row: 50,
            ws_col: 132,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        again("terminal", pty.slave.into());
        again("file", std::process::Stdio::null());
    }
}
