//! Runs in a container: dials the host's vsock ports repeatedly, keeps connections open, prints
//! their numbers, and waits for the end of its input.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// The ports that the owner and the agent of a pod have used, and two others.
const PORTS: [u32; 6] = [1, 1023, 1024, 1025, 1026, 9999];

const TIMES: u32 = 500;

fn dial(port: u32) -> nix::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port))?;
    Ok(fd)
}

fn main() -> io::Result<()> {
    let mut open = Vec::new();
    let mut knocked = 0;
    for _ in 0..TIMES {
        for port in PORTS {
            knocked += 1;
            open.extend(dial(port));
        }
    }
    println!("knocked {knocked} times, {} open", open.len());
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
