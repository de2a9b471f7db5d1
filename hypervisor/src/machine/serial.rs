//! The serial console: a 16550A whose output goes to the owner's bounded log.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};

use crate::event::EventFd;

/// The guest's first serial port, for output only.
pub(super) struct Serial {
    uart: Uart<Irq, NoEvents, Console>,
}

impl Serial {
    /// A port that raises `irq` and writes to the socket `console`.
    pub fn new(irq: EventFd, console: OwnedFd) -> Serial {
        let console = Console {
            socket: console,
            line: Vec::with_capacity(LINE),
        };
        Serial {
            uart: Uart::new(Irq(irq), console),
        }
    }

    /// Reads register `offset`.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.uart.read(offset)
    }

    /// Writes to register `offset`.
    pub fn write(&mut self, offset: u8, value: u8) {
        // Only the interrupt can fail, when its counter is full: then it is already pending.
        let _ = self.uart.write(offset, value);
    }

    /// Sends an incomplete line.
    pub fn flush(&mut self) {
        self.uart.writer_mut().send();
    }
}

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The number of bytes that are collected before they are sent; usually a line.
const LINE: usize = 256;

struct Console {
    socket: OwnedFd,
    line: Vec<u8>,
}

impl Console {
    /// Never waits: if the owner does not read, lines are lost, but the guest continues.
    fn send(&mut self) {
        use std::os::fd::AsRawFd;

        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.socket.as_raw_fd(), &self.line, flags) {
            Ok(_) | Err(Errno::EAGAIN | Errno::EPIPE) => {}
            Err(err) => log::debug!("Cannot write to the console: {err}"),
        }
        self.line.clear();
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' || self.line.len() == LINE {
                self.send();
            }
        }
        Ok(bytes.len())
    }

    /// The UART flushes after each byte; this does nothing, so that whole lines are sent.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn serial() -> (Serial, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let irq = EventFd::new().unwrap();
        (Serial::new(irq, ours.into()), theirs)
    }

    #[test]
    fn lines_arrive_whole_and_the_rest_when_flushed() {
        let (mut serial, mut owner) = serial();
        let mut buffer = [0; 64];

        b"one\ntw".iter().for_each(|byte| serial.write(0, *byte));
        let first = owner.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..first], b"one\n");

        serial.flush();
        let second = owner.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..second], b"tw");
    }

    #[test]
    fn owner_that_does_not_read_holds_nothing_up() {
        let (mut serial, owner) = serial();

        for _ in 0..1_000_000 {
            serial.write(0, b'x');
        }
        drop(owner);
        (0..1000).for_each(|_| serial.write(0, b'\n'));

        assert_ne!(serial.read(5) & 0x20, 0, "the transmitter is ready");
    }

    #[test]
    fn a_line_without_an_end_is_sent_in_pieces_of_256_bytes() {
        let (mut serial, mut owner) = serial();
        owner.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1024];

        (0..255).for_each(|_| serial.write(0, b'x'));
        let early = owner.read(&mut buffer).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
        serial.write(0, b'y');
        assert_eq!(owner.read(&mut buffer).unwrap(), 256);
        assert_eq!(buffer[254..256], *b"xy");
        serial.write(0, b'\n');
        assert_eq!(owner.read(&mut buffer).unwrap(), 1);
    }

    /// 16550A: bit 1 of the interrupt enable register asks for an interrupt once the
    /// transmitter is empty, which it always is.
    #[test]
    fn the_transmitter_interrupts_if_the_guest_wants_that() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let irq = EventFd::new().unwrap();
        let mut serial = Serial::new(irq.try_clone().unwrap(), ours.into());

        serial.write(0, b'x');
        assert_eq!(irq.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        serial.write(1, 2);
        assert_eq!(serial.read(1), 2);
        serial.write(0, b'x');
        assert!(irq.read().is_ok());
    }
}
