//! Two processes share files in one folder: `meet first DIR` and `meet second DIR`, in two
//! containers. The second one prints the results: a mapping, locks, a socket, a FIFO.
//!
//! Linked like the other binaries of the tests, so the container needs the host's `/lib`.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock};
use rustix::io::Errno;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mut args = std::env::args().skip(1);
    let (Some(role), Some(dir)) = (args.next(), args.next()) else {
        return Err("meet first|second DIR".into());
    };
    let dir = PathBuf::from(dir);
    match role.as_str() {
        "first" => first(&dir),
        "second" => second(&dir),
        _ => Err(role.into()),
    }
}

fn first(dir: &Path) -> Outcome {
    let map = mapped(&dir.join("map"))?;
    map.store(1, Ordering::SeqCst);
    let locked = opened(&dir.join("flock"))?;
    flock(&locked, FlockOperation::LockExclusive)?;
    let record = opened(&dir.join("record"))?;
    lock_record(&record)?;
    let listener = UnixListener::bind(dir.join("socket"))?;
    let fifo = dir.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0)?;
    println!("ready");

    let (mut peer, _) = listener.accept()?;
    peer.write_all(b"hello\n")?;
    // The text from the FIFO is sent back through the socket.
    let text = fs::read_to_string(&fifo)?;
    writeln!(peer, "fifo said {text}")?;
    let mut done = String::new();
    peer.read_to_string(&mut done)?;
    println!("the mapping has {}", map.load(Ordering::SeqCst));
    Ok(())
}

fn second(dir: &Path) -> Outcome {
    let map = mapped(&dir.join("map"))?;
    println!("the mapping has {}", map.load(Ordering::SeqCst));
    map.store(2, Ordering::SeqCst);
    let locked = opened(&dir.join("flock"))?;
    let free = flock(&locked, FlockOperation::NonBlockingLockExclusive);
    println!("flock: {}", told(free == Err(Errno::WOULDBLOCK)));
    let record = lock_record(&opened(&dir.join("record"))?);
    println!("record lock: {}", told(record.is_err()));

    let peer = UnixStream::connect(dir.join("socket"))?;
    let mut lines = BufReader::new(&peer).lines();
    let mut line = || -> Outcome<String> { Ok(lines.next().ok_or("it hung up")??) };
    println!("socket: {}", line()?);
    let mut fifo = OpenOptions::new().write(true).open(dir.join("fifo"))?;
    fifo.write_all(b"welcome")?;
    drop(fifo);
    println!("{}", line()?);
    Ok(())
}

fn told(is_held: bool) -> &'static str {
    if is_held { "held" } else { "free" }
}

fn opened(path: &Path) -> Outcome<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    Ok(options.open(path)?)
}

/// Takes a lock of fcntl(2) on the whole file.
fn lock_record(file: &File) -> std::io::Result<()> {
    // SAFETY: only numbers, and zero is valid for them: from the start to the end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: reads `lock`, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The first byte of a shared mapping of the file, which is never unmapped.
fn mapped(path: &Path) -> Outcome<&'static AtomicU8> {
    const LEN: usize = 4096;
    let file = opened(path)?;
    file.set_len(LEN as u64)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let shared = libc::MAP_SHARED;
    // SAFETY: a new mapping, in unused memory.
    let map = unsafe { libc::mmap(ptr::null_mut(), LEN, access, shared, file.as_raw_fd(), 0) };
    if map == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the mapping is never unmapped, and only used as atomic bytes.
    Ok(unsafe { AtomicU8::from_ptr(map.cast()) })
}
