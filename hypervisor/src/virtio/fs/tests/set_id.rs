//! Set-id bits of files that are written in place change as on a local file system.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::client::{Client, longs, opcode, words};

/// fuse.h: FUSE_WRITE_KILL_SUIDGID, FATTR_SIZE, FATTR_KILL_SUIDGID.
const WRITE_KILL: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const KILL: u32 = 1 << 11;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn of_files_stay_for_the_privileged_and_go_for_others() {
    let mut client = Client::new();
    let path = client.path().join("file");
    fs::write(&path, "content").unwrap();
    let node = client.node(&["file"]);
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let write = |client: &mut Client, flags: u32| {
        let mut body = longs(&[handle, 0]);
        body.extend(words(&[1, flags]));
        body.extend(longs(&[0, 0]));
        body.push(b'x');
        client.call(opcode::WRITE, node, &body).unwrap();
    };
    let set = |bits| fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();

    for (bits, left) in [(0o6755, 0o755), (0o2745, 0o2745), (0o4700, 0o700)] {
        set(bits);
        write(&mut client, 0);
        assert_eq!(mode(&path), bits, "kept");
        client.setattr(node, SIZE).unwrap();
        assert_eq!(mode(&path), bits, "kept over a truncation");
        let allocate = longs(&[handle, 0, 4096, 0]);
        client.call(opcode::FALLOCATE, node, &allocate).unwrap();
        assert_eq!(mode(&path), bits, "kept over an allocation");

        write(&mut client, WRITE_KILL);
        assert_eq!(mode(&path), left, "taken away by a write");
        set(bits);
        client.setattr(node, SIZE | KILL).unwrap();
        assert_eq!(mode(&path), left, "taken away by a truncation");
    }
}
