//! Signals to the VMM that the guest's user space starts: the VMM logs this as the boot time.
//!
//! The signal is one byte, written to an I/O port that the VMM handles at once and other
//! machines ignore. The agent writes it before anything is mounted, so it cannot read
//! `/proc/cmdline`. The port is in the environment instead: the kernel adds unknown words of
//! its command line to it, unless they have a dot.

use std::io;

use nix::errno::Errno;

/// Writes the mark, if the command line asks for it.
pub fn write() -> io::Result<()> {
    let word = std::env::var(protos::BOOT_MARK_WORD).ok();
    write_where_asked(word.as_deref(), write_port)
}

fn write_where_asked(
    word: Option<&str>,
    write: impl FnOnce(u16, u8) -> io::Result<()>,
) -> io::Result<()> {
    match word {
        Some(value) => write(port(value)?, protos::BOOT_MARK_VALUE),
        None => Ok(()),
    }
}

/// Parses a port in hexadecimal digits.
fn port(value: &str) -> io::Result<u16> {
    let digits = value.strip_prefix("0x").unwrap_or(value);
    u16::from_str_radix(digits, 16).map_err(|_| {
        let message = format!("invalid I/O port: {}={value}", protos::BOOT_MARK_WORD);
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

fn write_port(port: u16, value: u8) -> io::Result<()> {
    permit(port, true)?;
    // SAFETY: the command line names a port of the VMM, and a write to it changes neither
    // memory nor flags.
    unsafe {
        std::arch::asm!(
            "out dx, al",
            in("dx") port,
            in("al") value,
            options(nomem, nostack, preserves_flags)
        );
    }
    // Children inherit the permission, and no container may have it.
    permit(port, false)
}

fn permit(port: u16, on: bool) -> io::Result<()> {
    // SAFETY: changes which ports the calling thread may use, nothing else.
    let result = unsafe { libc::ioperm(port.into(), 1, on.into()) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::testing::alone;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use test_support::{Reason, require, root};

    #[test]
    fn port_is_hexadecimal() {
        assert_eq!(port("3f0").unwrap(), protos::BOOT_MARK_PORT);
        assert_eq!(port("0x3f0").unwrap(), protos::BOOT_MARK_PORT);
        for bad in ["", "0x", "10000", "-1", "port"] {
            let err = port(bad).unwrap_err().to_string();
            assert!(err.contains(protos::BOOT_MARK_WORD), "{err}");
        }
    }

    /// What is written for a word of the command line.
    fn written(word: Option<&str>) -> io::Result<Vec<(u16, u8)>> {
        let mut written = Vec::new();
        write_where_asked(word, |port, value| {
            written.push((port, value));
            Ok(())
        })?;
        Ok(written)
    }

    #[test]
    fn the_mark_is_written_to_the_port_asked_for_and_to_no_other() {
        let mark = (protos::BOOT_MARK_PORT, protos::BOOT_MARK_VALUE);
        assert_eq!(written(Some("0x3f0")).unwrap(), [mark]);
        assert_eq!(written(None).unwrap(), []);
        let refused = written(Some("0x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let failed = write_where_asked(Some("80"), |_, _| Err(io::ErrorKind::Other.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::Other);
    }

    /// The signal that ends a process which writes a byte to the port after `before`.
    fn signal_of_a_write(before: impl FnOnce() -> io::Result<()>) -> Option<Signal> {
        // SAFETY: the child makes system calls and writes to a port, nothing else.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                if before().is_err() {
                    std::process::abort();
                }
                // SAFETY: touches neither memory nor flags.
                unsafe {
                    std::arch::asm!(
                        "out dx, al",
                        in("dx") DIAGNOSTICS,
                        in("al") 0u8,
                        options(nomem, nostack, preserves_flags)
                    );
                    libc::_exit(0);
                }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Signaled(_, signal, _) => Some(signal),
                _ => None,
            },
        }
    }

    /// Power-on diagnostics: a write there has no effect.
    const DIAGNOSTICS: u16 = 0x80;

    /// Kernels may be built without.
    fn ports() -> Result<(), Reason> {
        match permit(DIAGNOSTICS, false) {
            Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => {
                Err(Reason::SystemCall("ioperm(2)"))
            }
            permitted => {
                permitted.unwrap();
                Ok(())
            }
        }
    }

    #[test]
    fn the_right_to_the_port_is_given_back() {
        require!(root());
        require!(ports());
        let _children = crate::guest::reaper::children();
        let permitted = || permit(DIAGNOSTICS, true);
        assert_eq!(signal_of_a_write(permitted), None);
        let mark = || write_port(DIAGNOSTICS, protos::BOOT_MARK_VALUE);
        assert_eq!(signal_of_a_write(mark), Some(Signal::SIGSEGV));
    }

    #[test]
    fn the_word_of_the_environment_is_read() {
        alone!();
        crate::launch::testing::forked_well(|| {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(protos::BOOT_MARK_WORD, "no port") };
            assert_eq!(write().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        });
    }
}
