//! A file whose reads take as long as the test wants: it is on a FUSE file system that the test
//! serves.

use super::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use test_support::{require, root};

/// linux/fuse.h
mod op {
    pub const LOOKUP: u32 = 1;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const INIT: u32 = 26;
    /// Has no answer.
    pub const FORGET: u32 = 2;
}

const LEN: u64 = 1 << 20;

/// Answers requests; reads are sent to `reads` and answered when `go` is closed.
fn serve(mut fuse: File, reads: Sender<u64>, go: Receiver<()>) {
    let mut request = vec![0; 1 << 18];
    let field = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // Reads end with an error when the file system is unmounted.
    while let Ok(count) = fuse.read(&mut request) {
        let request = &request[..count];
        let opcode = field(request, 0).to_le_bytes();
        let opcode = u32::from_le_bytes(opcode[4..].try_into().unwrap());
        let node = field(request, 16);
        // fuse_attr: a directory with id 1, a file with id 2.
        let attr = |node: u64| {
            let mut attr = [0u8; 88];
            attr[..8].copy_from_slice(&node.to_le_bytes());
            attr[8..16].copy_from_slice(&LEN.to_le_bytes());
            let mode: u32 = if node == 1 { 0o40755 } else { 0o100644 };
            attr[60..64].copy_from_slice(&mode.to_le_bytes());
            attr[64..68].copy_from_slice(&1u32.to_le_bytes());
            attr
        };
        let answer = match opcode {
            op::FORGET => continue,
            op::INIT => {
                let mut init = vec![0u8; 64];
                init[..4].copy_from_slice(&7u32.to_le_bytes());
                init[4..8].copy_from_slice(&31u32.to_le_bytes());
                init[20..24].copy_from_slice(&(1u32 << 17).to_le_bytes());
                init
            }
            op::LOOKUP => {
                let mut entry = vec![0u8; 40];
                entry[..8].copy_from_slice(&2u64.to_le_bytes());
                [entry, attr(2).to_vec()].concat()
            }
            op::GETATTR => [vec![0u8; 16], attr(node).to_vec()].concat(),
            op::OPEN => vec![0u8; 16],
            op::READ => {
                let (offset, size) = (field(request, 48), field(request, 56) as u32);
                let _ = reads.send(offset);
                // Reads after the first are not held up.
                let _ = go.recv();
                vec![0x5a; size as usize]
            }
            _ => Vec::new(),
        };
        let mut header = [0u8; 16];
        header[..4].copy_from_slice(&(16 + answer.len() as u32).to_le_bytes());
        if answer.is_empty() {
            header[4..8].copy_from_slice(&(-libc::ENOSYS).to_le_bytes());
        }
        header[8..].copy_from_slice(&request[8..16]);
        if fuse.write(&[&header[..], &answer].concat()).is_err() {
            return;
        }
    }
}

/// The file, opened for reading, and the thread that serves it. It is mounted in a thread's own
/// namespace, while it is open.
fn mount(reads: Sender<u64>, go: Receiver<()>) -> (File, JoinHandle<()>) {
    let mounted = std::thread::spawn(move || {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let fuse = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("slow"), "/mnt", Some("fuse"), flags, Some(&*options)).unwrap();
        let server = std::thread::spawn(move || serve(fuse, reads, go));
        let file = File::open("/mnt/disk").unwrap();
        umount2("/mnt", MntFlags::MNT_DETACH).unwrap();
        (file, server)
    });
    mounted.join().unwrap()
}

#[test]
fn slow_request_holds_up_no_other() {
    // Needed for the slow file system.
    require!(root());
    let (reads, read) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let (file, server) = mount(reads, wait);
    let options = BlockOptions {
        read_only: true,
        ..BlockOptions::default()
    };
    let mut rig = Rig::on(file.try_clone().unwrap(), file, options, u64::MAX);
    rig.header(VIRTIO_BLK_T_IN, 8);
    let id = HEADER + 64;
    rig.driver.write(id, &VIRTIO_BLK_T_GET_ID.to_le_bytes());

    // The read, followed by a request that needs no storage.
    rig.driver.descriptor(0, (HEADER, 16, NEXT, 1));
    rig.driver.descriptor(1, (DATA, 512, NEXT | WRITE, 2));
    rig.driver.descriptor(2, (STATUS, 1, WRITE, 0));
    rig.driver.descriptor(3, (id, 16, NEXT, 4));
    rig.driver.descriptor(4, (DATA + 4096, 21, WRITE, 0));
    rig.driver.offer(0);
    rig.driver.offer(3);
    rig.driver.kick();
    assert_eq!(rig.driver.wait_used(), (3, 21));
    // A request that comes while the read is in progress.
    let offset = read.recv().unwrap();
    assert!(offset <= 8 * SECTOR, "{offset}");
    rig.driver.offer(3);
    rig.driver.kick();
    assert_eq!(rig.driver.wait_used(), (3, 21));
    assert!(rig.driver.used().is_none());

    // The stop waits for the read.
    let stopped = std::thread::scope(|scope| {
        let device = &mut rig.device;
        let stop = scope.spawn(move || device.stop_queue(0).unwrap());
        drop(go);
        stop.join().unwrap()
    });
    assert_eq!(rig.driver.wait_used(), (0, 513));
    assert_eq!(rig.driver.read(DATA, 512), [0x5a; 512]);
    drop((stopped, rig));
    server.join().unwrap();
}
