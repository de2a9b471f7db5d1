//! A fuzz target for the network device, on a tap in a separate network namespace.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};

use super::control::{Control, Taps};
use super::receive::{Backlog, Receiving, Shape, Taken, receive};
use super::tap::Tap;
use super::transmit::{Sending, send};
use super::{HEADER_LEN, MAX_FRAME};
use crate::fuzz::{Driver, Script};
use crate::virtio::buffers::IovecScratch;
use crate::virtio::{Ring, serve_batch};

/// Queues: to the guest, from it, and control.
const QUEUES: usize = 3;
/// The number of batches after which a queue must be idle.
const BATCHES: usize = 16;

mod ioctl {
    // linux/if_tun.h
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, 4),
        libc::ifreq
    );
}

thread_local! {
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new(QUEUES));
    static LINK: Link = Link::new();
}

/// The network device: its queues, and frames from the link.
pub fn net(bytes: &[u8]) {
    LINK.with(|link| {
        DRIVER.with_borrow_mut(|driver| {
            link.clear();
            let mut script = Script::new(bytes);
            let kind = script.byte();
            driver.reset(QUEUES, kind & 1 != 0);
            let shape = Shape {
                longest: if kind & 2 != 0 { MAX_FRAME } else { 1600 },
                mergeable: kind & 4 != 0,
            };
            let mut backlog = Backlog::new();
            let mut control = Control(Arc::clone(&link.taps));
            while !script.is_over() {
                match driver.step(&mut script) {
                    Some(0) => {
                        let count = script.word() % 2000;
                        link.inject(count.into());
                        if let Some(ring) = driver.ring(0) {
                            deliver(ring, link, &mut backlog, shape);
                        }
                    }
                    Some(1) => {
                        if let Some(ring) = driver.ring(1) {
                            take(ring, link);
                        }
                    }
                    Some(_) => {
                        if let Some(ring) = driver.ring(2) {
                            assert!(!serve_batch(ring, &mut control));
                        }
                    }
                    None => {}
                }
            }
        });
    });
}

fn deliver(ring: &mut Ring, link: &Link, backlog: &mut Backlog, shape: Shape) {
    let mut taken = Taken::default();
    for _ in 0..BATCHES {
        if receive(ring, &link.first, &mut taken, backlog, shape) != Receiving::Ready {
            return;
        }
    }
    panic!("receiving does not come to rest");
}

fn take(ring: &mut Ring, link: &Link) {
    let mut scratch = IovecScratch::default();
    for _ in 0..BATCHES {
        if send(ring, &link.first, &mut scratch) != Sending::Ready {
            return;
        }
    }
    panic!("sending does not come to rest");
}

/// A tap interface with two queues, and the host's end of it.
struct Link {
    first: Arc<Tap>,
    taps: Arc<Taps>,
    host: OwnedFd,
    index: libc::c_int,
}

impl Link {
    fn new() -> Link {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let [first, second] = [open_queue(), open_queue()];
        let first = Arc::new(Tap::new(first, true).unwrap());
        let second = Arc::new(Tap::new(second, true).unwrap());
        first.set_offloads(!0).unwrap();
        // SAFETY: makes a socket; the result is checked.
        let host = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        assert!(host >= 0);
        // SAFETY: it was just made.
        let host = unsafe { OwnedFd::from_raw_fd(host) };
        let mut request = request(libc::IFF_UP);
        // SAFETY: reads, and then writes, a request through a valid reference.
        let index = unsafe {
            assert_eq!(
                libc::ioctl(host.as_raw_fd(), libc::SIOCSIFFLAGS, &request),
                0
            );
            assert_eq!(
                libc::ioctl(host.as_raw_fd(), libc::SIOCGIFINDEX, &mut request),
                0
            );
            request.ifr_ifru.ifru_ifindex
        };
        Link {
            taps: Arc::new(Taps::new(vec![Arc::clone(&first), second])),
            first,
            host,
            index,
        }
    }

    /// Discards waiting frames, and uses one queue.
    fn clear(&self) {
        self.taps.set_pairs(1);
        self.taps.apply().unwrap();
        let mut frame = [0u8; HEADER_LEN + 2048];
        let place = libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        };
        // SAFETY: the vector describes `frame`.
        while unsafe { self.first.read(&[place]) }.is_ok() {}
    }

    /// Sends a frame from the host.
    fn inject(&self, len: usize) {
        let mut frame = vec![0x5a; len.max(14)];
        frame[..6].fill(0xff);
        // SAFETY: all-zero is a valid address.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.index;
        // SAFETY: reads the frame and the address, with their lengths. A frame longer than the
        // MTU is refused.
        unsafe {
            libc::sendto(
                self.host.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
    }
}

fn request(flags: libc::c_int) -> libc::ifreq {
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"fuzz0") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

fn open_queue() -> File {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun").unwrap();
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    // SAFETY: reads a request through a valid reference.
    let set = unsafe { ioctl::set_interface(file.as_raw_fd(), &request(flags)) };
    set.map_err(io::Error::from).unwrap();
    file
}
