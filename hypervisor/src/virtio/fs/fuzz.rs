//! Fuzz targets for the file system device.
//!
//! The share is on a separate tmpfs that only this process sees: a guest that writes gigabytes,
//! or makes device nodes, does no harm.

use std::cell::RefCell;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::server::{FuseServer, handle};
use super::share::SharedDir;
use crate::fuzz::{Checked, Driver, Script, drive};
use crate::virtio::ring::Chain;
use crate::virtio::{Handler, serve_batch};

const SECRET: &[u8] = b"what no guest may know";
/// A request is in the upper region, its answer in the lower one.
const IN: u64 = 0x10_0000;
const IN_LEN: usize = 0x4000;
const OUT: u64 = 0x8000;
const OUT_LEN: u32 = 0x4000;
/// struct fuse_in_header
const HEADER_LEN: usize = 40;

thread_local! {
    static PLACE: Place = Place::new();
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new(1));
}

/// The file system device: chains of any kind, with requests that may be valid.
pub fn fs(bytes: &[u8]) {
    PLACE.with(|place| {
        let server = Checked(Server(place.share()));
        drive(bytes, vec![server], |_| {});
        place.check();
    });
}

/// FUSE requests of any kind in valid chains.
pub fn fuse(bytes: &[u8]) {
    PLACE.with(|place| {
        DRIVER.with_borrow_mut(|driver| {
            let mut server = Server(place.share());
            let mut script = Script::new(bytes);
            driver.reset(1, false);
            while !script.is_over() {
                let (request, room) = request(&mut script);
                driver.store(IN, &request);
                driver.put(0, 0, (IN, request.len() as u32, 1, 1));
                driver.put(0, 1, (OUT, room, 2, 0));
                driver.offer(0, 0);
                let ring = driver.ring(0).as_mut().unwrap();
                assert!(!serve_batch(ring, &mut server));
                let (_, len) = driver.used(0).unwrap();
                assert!(len <= room);
                check(driver, len);
            }
        });
        place.check();
    });
}

/// No answer may contain the secret.
fn check(driver: &Driver, len: u32) {
    let mut answer = vec![0; len as usize];
    let memory = driver.memory();
    memory.read_slice(&mut answer, GuestAddress(OUT)).unwrap();
    let found = answer.windows(SECRET.len()).any(|bytes| bytes == SECRET);
    assert!(!found, "the answer has the secret");
}

/// A request, and the size of the room for its answer.
fn request(script: &mut Script<'_>) -> (Vec<u8>, u32) {
    let opcode = u32::from(script.byte());
    let shape = script.byte();
    // Nodes and handles count up from 1.
    let node = match shape & 0xf {
        15 => script.quad(),
        14 => u64::from(script.byte()) | 1 << 60,
        node => node.into(),
    };
    let (uid, gid) = match shape >> 4 & 3 {
        0 => (script.long(), script.long()),
        _ => (0, 0),
    };
    let room = match shape >> 6 {
        0 => script.number() % OUT_LEN,
        _ => OUT_LEN,
    };
    let len = match script.byte() {
        255 => usize::from(script.word()),
        len => len.into(),
    };
    let body = script.bytes(len.min(IN_LEN - HEADER_LEN));
    let claimed = match shape >> 6 {
        1 => script.number(),
        _ => (HEADER_LEN + body.len()) as u32,
    };
    let mut request = Vec::with_capacity(HEADER_LEN + body.len());
    request.extend(claimed.to_le_bytes());
    request.extend(opcode.to_le_bytes());
    request.extend(7u64.to_le_bytes());
    request.extend(node.to_le_bytes());
    request.extend(uid.to_le_bytes());
    request.extend(gid.to_le_bytes());
    request.extend([0; 8]);
    request.extend(body);
    (request, room)
}

struct Server(FuseServer);

impl Handler for Server {
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        handle(&self.0, mem, chain)
    }
}

/// Keeps capabilities as a thread of the device does: capabilities(7), SECBIT_NO_SETUID_FIXUP.
fn keep_capabilities() {
    // SAFETY: changes one flag of the calling thread.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0) };
    assert_eq!(result, 0);
}

/// A file system with a share and files outside it.
struct Place {
    dir: PathBuf,
    secret: Metadata,
}

impl Place {
    fn new() -> Place {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).unwrap();
        let dir = std::env::temp_dir().join(format!("fuzz-fs-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let small = Some("size=16m,nr_inodes=2000,mode=755");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, small).unwrap();
        fs::create_dir(dir.join("outside")).unwrap();
        fs::write(dir.join("outside/s"), SECRET).unwrap();
        keep_capabilities();
        Place {
            secret: fs::symlink_metadata(dir.join("outside/s")).unwrap(),
            dir,
        }
    }

    /// The share in its initial state, and a server for it.
    fn share(&self) -> FuseServer {
        let dir = self.dir.join("share");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("d/rootfs")).unwrap();
        fs::write(dir.join("f"), "content").unwrap();
        fs::write(dir.join("d/f"), "content").unwrap();
        symlink("../outside/s", dir.join("l")).unwrap();
        symlink("../outside", dir.join("o")).unwrap();
        nix::unistd::mkfifo(&dir.join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        FuseServer::new(Arc::new(SharedDir::new(&dir, 1000).unwrap()))
    }

    /// Files outside the share must be unchanged.
    fn check(&self) {
        let path = |name: &str| self.dir.join(name);
        let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((names(&self.dir), names(&path("outside"))), (2, 1));
        let now = fs::symlink_metadata(path("outside/s")).unwrap();
        let facts = |it: &Metadata| (it.ino(), it.len(), it.mode(), it.nlink(), it.ctime_nsec());
        assert_eq!(facts(&now), facts(&self.secret));
        assert_eq!(now.atime_nsec(), self.secret.atime_nsec(), "it was read");
    }
}
