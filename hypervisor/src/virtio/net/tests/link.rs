//! The host's end of a tap: a packet socket on the interface, in a network namespace of
//! its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// For local experiments (IEEE 802), so that the host does not answer.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

// linux/if_packet.h, linux/if_tun.h
const PACKET_VNET_HDR: libc::c_int = 15;
nix::ioctl_write_ptr_bad!(
    set_interface,
    nix::request_code_write!(b'T', 202, 4),
    libc::ifreq
);

pub struct Link {
    namespace: File,
    socket: OwnedFd,
}

/// Opens a tap of a new interface, or of `tap0` for several queues.
pub fn tap(flags: libc::c_int) -> File {
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        static NUMBER: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(b'a');
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        open(&[b'm', number], flags)
    })
    .join()
    .unwrap()
}

fn open(name: &[u8], flags: libc::c_int) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name) {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: reads a request through a valid reference.
    unsafe { set_interface(file.as_raw_fd(), &request) }.unwrap();
    file
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

impl Link {
    /// An interface that is up, with this many queues.
    pub fn new(queues: usize) -> (Link, Vec<File>) {
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
            if queues > 1 {
                flags |= libc::IFF_MULTI_QUEUE;
            }
            let taps = (0..queues).map(|_| open(b"tap0", flags)).collect();
            // Without IPv6 the host does not send by itself.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1");
            ip("link set tap0 up");
            let namespace = File::open("/proc/thread-self/ns/net").unwrap();
            (
                Link {
                    namespace,
                    socket: socket(),
                },
                taps,
            )
        })
        .join()
        .unwrap()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    pub fn set_up(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        self.inside(|| ip(&format!("link set tap0 {state}")));
    }

    pub fn delete(&self) {
        self.inside(|| ip("link delete tap0"));
    }

    /// Queues that are attached.
    pub fn queues(&self) -> usize {
        let shown = self.inside(|| {
            Command::new("ip")
                .args(["-d", "link", "show", "tap0"])
                .output()
                .unwrap()
        });
        let shown = String::from_utf8(shown.stdout).unwrap();
        let mut words = shown.split_whitespace();
        words.find(|word| *word == "numqueues").map_or_else(
            || panic!("no number of queues in {shown}"),
            |_| words.next().unwrap().parse().unwrap(),
        )
    }

    /// Sends a frame to the guest.
    pub fn send(&self, frame: &[u8]) {
        self.send_with(&[0; 10], frame);
    }

    /// Sends a frame to the guest, unless the tap's queue is full.
    pub fn offer(&self, frame: &[u8]) {
        let bytes = [&[0; 10], frame].concat();
        match nix::unistd::write(&self.socket, &bytes) {
            Ok(sent) => assert_eq!(sent, bytes.len()),
            Err(err) => assert_eq!(err, nix::errno::Errno::ENOBUFS),
        }
    }

    /// Forgets frames that have not been received.
    pub fn drain(&self) {
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        let mut byte = [0];
        while nix::sys::socket::recv(self.socket.as_raw_fd(), &mut byte, flags).is_ok() {}
    }

    /// Sends a frame with a header.
    pub fn send_with(&self, header: &[u8; 10], frame: &[u8]) {
        let bytes = [&header[..], frame].concat();
        let sent = nix::unistd::write(&self.socket, &bytes).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// The next frame from the guest, and its header.
    pub fn receive(&self) -> ([u8; 10], Vec<u8>) {
        loop {
            let mut bytes = vec![0; 70_000];
            let mut from: libc::sockaddr_ll =
                // SAFETY: all-zero is a valid address.
                unsafe { std::mem::zeroed() };
            let mut len = size_of_val(&from) as libc::socklen_t;
            // SAFETY: writes into the buffer and the address given, within their lengths.
            let count = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw mut from).cast(),
                    &mut len,
                )
            };
            if count < 0 {
                // Reported once if the interface was down meanwhile.
                let err = io::Error::last_os_error();
                assert_eq!(err.raw_os_error(), Some(libc::ENETDOWN), "{err}");
                continue;
            }
            // Not those that went the other way.
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                bytes.truncate(count as usize);
                let frame = bytes.split_off(10);
                return (bytes.try_into().unwrap(), frame);
            }
        }
    }
}

/// A packet socket on the interface, which gives up after ten seconds.
fn socket() -> OwnedFd {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: makes a descriptor, or fails.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all.into());
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(socket)
    };
    let option = |level, name, value: &[libc::c_long]| {
        // SAFETY: reads the value given; a longer one than needed is allowed.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                value.as_ptr().cast(),
                size_of_val(value) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    };
    option(libc::SOL_PACKET, PACKET_VNET_HDR, &[1]);
    option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &[10, 0]);
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    // SAFETY: reads a string and an address, within their lengths.
    let result = unsafe {
        address.sll_ifindex = libc::if_nametoindex(c"tap0".as_ptr()) as i32;
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    socket
}

/// A frame of `len` bytes for `to`, filled with `fill`.
pub fn frame(to: [u8; 6], len: usize, fill: u8) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 1], &ETHERTYPE].concat();
    frame.resize(len, fill);
    frame
}

/// An IPv4 packet of `len` bytes, without the Ethernet header, with the addresses set.
fn ipv4(to: [u8; 6], protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = frame(to, 14 + len, 0);
    packet[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut packet[14..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[8] = 64;
    ip[9] = protocol;
    ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = !checksum(&ip[..20]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A TCP segment of `len` bytes, including all headers, that is to be segmented and checksummed
/// later, and the header that says so.
pub fn tcp(to: [u8; 6], len: usize) -> ([u8; 10], Vec<u8>) {
    let mut packet = ipv4(to, 6, len - 14);
    let tcp = &mut packet[34..];
    tcp[..4].copy_from_slice(&[0, 80, 0, 81]);
    tcp[12..14].copy_from_slice(&[5 << 4, 0x10]);
    for (at, byte) in tcp[20..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    let mut header = [0; 10];
    header[..2].copy_from_slice(&[1, 1]);
    // Length of the headers, of a segment, where the sum starts and where it goes.
    for (at, value) in [(2, 54u16), (4, 1400), (6, 34), (8, 16)] {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    // The sum of the pseudo header is there already.
    let mut pseudo = packet[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((len - 34) as u16).to_be_bytes());
    let sum = checksum(&pseudo);
    packet[50..52].copy_from_slice(&sum.to_be_bytes());
    (header, packet)
}

/// A UDP packet of 60 bytes from a port of its own, without a sum.
pub fn udp(to: [u8; 6], port: u16) -> Vec<u8> {
    let mut packet = ipv4(to, 17, 46);
    packet[34..36].copy_from_slice(&port.to_be_bytes());
    packet[36..40].copy_from_slice(&[0, 9, 0, 26]);
    packet
}
