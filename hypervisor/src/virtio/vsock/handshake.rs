//! The handshake by which a host program names the guest's port.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

/// The longest `CONNECT <port>\n`.
const MAX_HANDSHAKE: usize = 32;

/// `CONNECT <port>\n`, and not a byte more, since data may follow.
pub(super) fn handshake(stream: &UnixStream) -> io::Result<Option<u32>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = [0; MAX_HANDSHAKE];
    let peek = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let len = match recv(stream, &mut line[..], peek) {
        Ok((0, _)) => return Err(bad()),
        Ok((len, _)) => len,
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let Some(end) = line[..len].iter().position(|byte| *byte == b'\n') else {
        return if len == line.len() {
            Err(bad())
        } else {
            Ok(None)
        };
    };
    recv(stream, &mut line[..=end], RecvFlags::DONTWAIT)?;
    std::str::from_utf8(&line[..end])
        .ok()
        .and_then(|text| text.strip_prefix("CONNECT "))
        .and_then(|port| port.trim_end().parse().ok())
        .map(Some)
        .ok_or_else(bad)
}
