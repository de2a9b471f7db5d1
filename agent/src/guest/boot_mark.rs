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
    match std::env::var(protos::BOOT_MARK_WORD) {
        Ok(value) => write_port(port(&value)?, protos::BOOT_MARK_VALUE),
        Err(_) => Ok(()),
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

    #[test]
    fn port_is_hexadecimal() {
        assert_eq!(port("3f0").unwrap(), protos::BOOT_MARK_PORT);
        assert_eq!(port("0x3f0").unwrap(), protos::BOOT_MARK_PORT);
        for bad in ["", "0x", "10000", "-1", "port"] {
            let err = port(bad).unwrap_err().to_string();
            assert!(err.contains(protos::BOOT_MARK_WORD), "{err}");
        }
    }

    #[test]
    fn no_wish_no_mark() {
        write().unwrap();
    }
}
