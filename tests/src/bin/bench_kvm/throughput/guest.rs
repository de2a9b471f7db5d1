//! The guest's side: as the init of the guest, this program runs the tasks and prints their
//! times by the guest's clock.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, VsockAddr, connect, shutdown, socket,
};

use super::{AMOUNT, DONE, HOST, SAYS, SINK, SOURCE};

/// The size of large requests; drivers do not make larger ones of these.
const LARGE: usize = 128 << 10;
const SMALL: usize = 4 << 10;
/// The number of small requests.
const REQUESTS: u64 = 1024;
/// How many requests are in flight, in tasks with more than one.
const DEPTH: u64 = 8;
/// The chunk size of streams, as in common programs.
const CHUNK: usize = 64 << 10;

/// Runs all tasks once.
pub fn live() -> ! {
    if let Err(error) = work() {
        println!("{SAYS} failed: {error}");
    }
    println!("{DONE}");
    loop {
        nix::unistd::pause();
    }
}

fn work() -> io::Result<()> {
    std::fs::create_dir_all("/dev")?;
    let none = None::<&str>;
    // The kernel may have mounted it already.
    let _ = mount(none, "/dev", Some("devtmpfs"), MsFlags::empty(), none);

    warm_up();

    tell("block-read-128k", || {
        let disk = disk(libc::O_DIRECT)?;
        let mut buffer = Aligned::new();
        let mut at = 0;
        while at < AMOUNT {
            disk.read_exact_at(buffer.part(LARGE), at)?;
            at += LARGE as u64;
        }
        Ok(())
    })?;
    tell("block-write-128k", || {
        let disk = disk(libc::O_DIRECT)?;
        let mut buffer = Aligned::new();
        let mut at = 0;
        while at < AMOUNT {
            disk.write_all_at(buffer.part(LARGE), at)?;
            at += LARGE as u64;
        }
        disk.sync_data()
    })?;
    tell("block-read-4k", || small(0, 1))?;
    tell("block-read-4k-deep", || {
        let threads: Vec<_> = (0..DEPTH)
            .map(|first| std::thread::spawn(move || small(first, DEPTH)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let lost = |_| io::Error::other("a thread panicked");
            thread.join().map_err(lost)?
        })
    })?;
    tell("block-read-cached", || {
        let mut disk = disk(0)?.take(AMOUNT);
        io::copy(&mut disk, &mut io::sink()).map(drop)
    })?;

    interface_up()?;
    let tcp = |port: u32| TcpStream::connect((HOST, port as u16)).map(OwnedFd::from);
    drop(tcp(SINK)?);
    tell("net-send", || send(tcp(SINK)?))?;
    tell("net-receive", || receive(tcp(SOURCE)?))?;
    tell("vsock-send", || send(vsock(SINK)?))?;
    tell("vsock-receive", || receive(vsock(SOURCE)?))
}

/// Makes the host allocate the guest's memory before the tasks use it: the cost of its page
/// faults varies and is not a device's.
fn warm_up() {
    std::hint::black_box(vec![1u8; 128 << 20]);
}

fn tell(what: &str, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let since = Instant::now();
    work().map_err(|error| io::Error::other(format!("{what}: {error}")))?;
    say(what, since.elapsed());
    Ok(())
}

fn say(what: &str, took: Duration) {
    println!("{SAYS} {what} {}", took.as_nanos());
}

fn disk(flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open("/dev/vda")
}

/// Makes every `step`-th small request, starting with `first`.
fn small(first: u64, step: u64) -> io::Result<()> {
    let disk = disk(libc::O_DIRECT)?;
    let mut buffer = Aligned::new();
    for turn in (first..REQUESTS).step_by(step as usize) {
        // In scattered order, so that requests are not merged.
        let place = turn * 37 % (AMOUNT / SMALL as u64);
        disk.read_exact_at(buffer.part(SMALL), place * SMALL as u64)?;
    }
    Ok(())
}

/// Sends to the host, and waits until it has received everything.
fn send(stream: OwnedFd) -> io::Result<()> {
    let mut stream = File::from(stream);
    let buffer = vec![7; CHUNK];
    for _ in 0..AMOUNT / CHUNK as u64 {
        stream.write_all(&buffer)?;
    }
    shutdown(stream.as_raw_fd(), Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

fn receive(stream: OwnedFd) -> io::Result<()> {
    let mut stream = File::from(stream);
    let mut buffer = vec![0; CHUNK];
    let mut left = AMOUNT;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count as u64,
        }
    }
    Ok(())
}

fn vsock(port: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    let host = VsockAddr::new(libc::VMADDR_CID_HOST, port);
    connect(stream.as_raw_fd(), &host)?;
    Ok(stream)
}

/// Sets the address of the only interface.
fn interface_up() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let any = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new("eth0").expect("no NUL in it");
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    let control = |request: &libc::ifreq, call: libc::c_ulong| {
        // SAFETY: the socket is open and the request lives through the call.
        match unsafe { libc::ioctl(any.as_raw_fd(), call as _, request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let address = |last: [u8; 4]| {
        // SAFETY: all zeroes is a valid `sockaddr`.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::AF_INET as libc::sa_family_t;
        // The address is after the port.
        for (to, from) in address.sa_data[2..6].iter_mut().zip(last) {
            *to = from as libc::c_char;
        }
        address
    };
    request.ifr_ifru.ifru_addr = address([10, 9, 0, 2]);
    control(&request, libc::SIOCSIFADDR)?;
    request.ifr_ifru.ifru_addr = address([255, 255, 255, 0]);
    control(&request, libc::SIOCSIFNETMASK)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    control(&request, libc::SIOCSIFFLAGS)
}

/// A buffer for direct I/O.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![0; LARGE + SMALL])
    }

    fn part(&mut self, len: usize) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(SMALL);
        &mut self.0[start..start + len]
    }
}
