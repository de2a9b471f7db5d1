//! A scripted FUSE client: sends arbitrary requests, valid or not, and returns the answer.

use std::path::{Path, PathBuf};

use virtio_queue::Queue;

use crate::virtio::fs::Fs;
use crate::virtio::testing::{DriverQueue, NEXT, WRITE, memory};
use crate::virtio::{Device, Memory};

pub const REQUEST: usize = 1;
pub const IN: u64 = 4 << 20;
pub const OUT: u64 = 5 << 20;
pub const OUT_LEN: u32 = 128 << 10;
pub const ROOT: u64 = 1;

/// include/uapi/linux/fuse.h, enum fuse_opcode.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SETUPMAPPING: u32 = 48;
}

/// A device that shares a directory, and its driver.
pub struct Client {
    pub _temporary: Option<tempfile::TempDir>,
    pub dir: PathBuf,
    pub device: Fs,
    pub mem: Memory,
    pub queue: DriverQueue,
    /// Must not occur in any answer.
    pub canary: Option<&'static [u8]>,
}

impl Client {
    /// Shares a new directory.
    pub fn new() -> Client {
        let dir = tempfile::tempdir().unwrap();
        let mut client = Client::sharing(dir.path());
        client._temporary = Some(dir);
        client
    }

    /// Shares `dir`.
    pub fn sharing(dir: &Path) -> Client {
        let mut client = Client::silent(dir);
        client.init(38, u32::MAX).unwrap();
        client
    }

    /// Shares `dir`, without INIT yet.
    pub fn silent(dir: &Path) -> Client {
        let mem = memory();
        let queue = DriverQueue::new(&mem, 0);
        let device = Fs::new("share", dir, 10_000).unwrap();
        let mut client = Client {
            _temporary: None,
            dir: dir.to_owned(),
            device,
            mem,
            queue,
            canary: None,
        };
        client.start(client.queue.queue());
        client
    }

    /// Starts the request queue.
    pub fn start(&mut self, queue: Queue) {
        let kick = self.queue.kick_event();
        let calls = self.queue.calls.clone();
        self.device
            .start_queue(REQUEST, queue, self.mem.clone(), kick, calls)
            .unwrap();
    }

    /// The shared directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn init(&mut self, minor: u32, flags: u32) -> Result<Vec<u8>, i32> {
        let mut init = words(&[7, minor, 65536, flags, u32::MAX]);
        init.resize(64, 0);
        self.call(opcode::INIT, ROOT, &init)
    }

    /// Sends a request as root; returns the body of the answer, or the error number.
    pub fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let answer = self.exchange(&request(opcode, node, body));
        assert_eq!(answer[..4], (answer.len() as u32).to_le_bytes());
        match i32::from_le_bytes(answer[4..8].try_into().unwrap()) {
            0 => Ok(answer[16..].to_vec()),
            error => Err(-error),
        }
    }

    /// Sends a request that has no answer.
    pub fn send_only(&mut self, opcode: u32, node: u64, body: &[u8]) {
        assert!(self.exchange(&request(opcode, node, body)).is_empty());
    }

    /// Sends arbitrary bytes; returns the answer, which may be empty.
    pub fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        self.queue.write(IN, request);
        self.queue.write(OUT, &[0; 16]);
        self.queue
            .descriptor(0, (IN, request.len() as u32, NEXT, 1));
        self.queue.descriptor(1, (OUT, OUT_LEN, WRITE, 0));
        self.queue.offer(0);
        self.queue.kick();

        let (head, len) = self.queue.wait_used();
        assert_eq!(head, 0);
        let answer = self.queue.read(OUT, len as usize);
        if let Some(canary) = self.canary {
            let found = answer.windows(canary.len()).any(|bytes| bytes == canary);
            assert!(!found, "the answer has the secret");
        }
        answer
    }

    /// A request whose body is some words and then names.
    pub fn named(
        &mut self,
        opcode: u32,
        node: u64,
        head: &[u32],
        names: &[&str],
    ) -> Result<Vec<u8>, i32> {
        let mut body = words(head);
        for name in names {
            body.extend(name.as_bytes());
            body.push(0);
        }
        self.call(opcode, node, &body)
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<Vec<u8>, i32> {
        self.named(opcode::LOOKUP, parent, &[], &[name])
    }

    /// The node at the end of a path, looked up step by step.
    pub fn node(&mut self, path: &[&str]) -> u64 {
        path.iter().fold(ROOT, |parent, name| {
            u64_at(&self.lookup(parent, name).unwrap(), 0)
        })
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let body = words(&[flags as u32, 0]);
        Ok(u64_at(&self.call(opcode::OPEN, node, &body)?, 0))
    }

    pub fn opendir(&mut self, node: u64) -> Result<u64, i32> {
        Ok(u64_at(
            &self.call(opcode::OPENDIR, node, &words(&[0, 0]))?,
            0,
        ))
    }

    pub fn create(&mut self, parent: u64, name: &str, flags: i32) -> Result<Vec<u8>, i32> {
        let head = [flags as u32, 0o644, 0, 0];
        self.named(opcode::CREATE, parent, &head, &[name])
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<Vec<u8>, i32> {
        self.named(opcode::SYMLINK, parent, &[], &[name, target])
    }

    pub fn read(&mut self, node: u64, handle: u64, size: u32) -> Result<Vec<u8>, i32> {
        let body = longs(&[handle, 0, u64::from(size), 0, 0]);
        self.call(opcode::READ, node, &body)
    }

    pub fn write(&mut self, node: u64, handle: u64, data: &[u8]) -> Result<Vec<u8>, i32> {
        let mut body = longs(&[handle, 0, data.len() as u64, 0, 0]);
        body.extend(data);
        self.call(opcode::WRITE, node, &body)
    }

    pub fn setxattr(&mut self, node: u64, name: &str, value: &str) -> Result<Vec<u8>, i32> {
        let mut body = words(&[value.len() as u32, 0]);
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(value.as_bytes());
        self.call(opcode::SETXATTR, node, &body)
    }

    pub fn getxattr(&mut self, node: u64, name: &str) -> Result<Vec<u8>, i32> {
        self.named(opcode::GETXATTR, node, &[4096, 0], &[name])
    }

    /// SETATTR of the fields in `valid`, with unusual values.
    pub fn setattr(&mut self, node: u64, valid: u32) -> Result<Vec<u8>, i32> {
        let mut body = words(&[valid, 0]);
        body.extend(longs(&[0, 3, 0, 1, 1, 1]));
        body.extend(words(&[1, 1, 1, 0o777, 0, 12345, 12345, 0]));
        self.call(opcode::SETATTR, node, &body)
    }
}

/// struct fuse_in_header and a body.
pub fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut request = words(&[40 + body.len() as u32, opcode]);
    request.extend(longs(&[7, node]));
    request.extend([0; 16]);
    request.extend(body);
    request
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
