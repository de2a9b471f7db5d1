//! Names that are not plain names.

use std::fs;

use super::super::client::{Client, ROOT, opcode};
use super::{Prison, halves};

/// Tries all requests with a name, each with `name` in `parent`; returns those that worked.
fn tried(guest: &mut Client, parent: u64, name: &str) -> Vec<&'static str> {
    let file = guest.node(&["file"]);
    let [low, high] = halves(parent);
    let [file_low, file_high] = halves(file);
    let mut worked = Vec::new();
    let mut note = |what, result: Result<Vec<u8>, i32>| {
        if result.is_ok() {
            worked.push(what);
        }
    };
    note("lookup", guest.lookup(parent, name));
    note("create", guest.create(parent, name, libc::O_RDWR));
    note("symlink", guest.symlink(parent, name, "x"));
    let mut named = |what, opcode, node, head: &[u32], names: &[&str]| {
        note(what, guest.named(opcode, node, head, names));
    };
    let mode = libc::S_IFREG | 0o644;
    named("mknod", opcode::MKNOD, parent, &[mode, 0, 0, 0], &[name]);
    named("mkdir", opcode::MKDIR, parent, &[0o755, 0], &[name]);
    named(
        "link",
        opcode::LINK,
        parent,
        &[file_low, file_high],
        &[name],
    );
    for [old, new] in [["file", name], [name, "file2"], [name, name]] {
        named("rename", opcode::RENAME, ROOT, &[low, high], &[old, new]);
        for flags in [1, 2, 4] {
            let head = [low, high, flags, 0];
            named("rename2", opcode::RENAME2, ROOT, &head, &[old, new]);
            named("rename2 in it", opcode::RENAME2, parent, &head, &[old, new]);
        }
    }
    named("unlink", opcode::UNLINK, parent, &[], &[name]);
    named("rmdir", opcode::RMDIR, parent, &[], &[name]);
    worked
}

#[test]
fn are_one_step_down() {
    let mut prison = Prison::new();
    let share = prison.share();
    fs::create_dir_all(share.join("dir/deep")).unwrap();
    fs::write(share.join("file"), "").unwrap();
    fs::write(share.join("dir/file"), "").unwrap();
    let secret = prison.outside().join("secret");
    let parents = [
        ROOT,
        prison.guest.node(&["dir"]),
        prison.guest.node(&["dir", "deep"]),
    ];
    let names = [
        "",
        ".",
        "..",
        "/",
        "//",
        "./",
        "../",
        "./file",
        "file/",
        "dir/file",
        "dir/..",
        "../outside",
        "../outside/secret",
        "../../outside/new",
        "../../../../../../../../etc/passwd",
        "/etc/passwd",
        secret.to_str().unwrap(),
        &"x".repeat(256),
        &"x/".repeat(3000),
    ];

    for parent in parents {
        for name in names {
            let worked = tried(&mut prison.guest, parent, name);
            assert!(worked.is_empty(), "{name:?} in {parent}: {worked:?}");
        }
    }

    assert!(share.join("file").exists() && share.join("dir/file").exists());
    assert_eq!(fs::read_dir(&share).unwrap().count(), 2);
    assert_eq!(fs::read_dir(share.join("dir")).unwrap().count(), 2);
}

#[test]
fn end_where_the_request_ends() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "").unwrap();
    let before = fs::read_dir(prison.share()).unwrap().count();
    let opcodes = [
        (opcode::LOOKUP, 0),
        (opcode::SYMLINK, 0),
        (opcode::MKNOD, 16),
        (opcode::MKDIR, 8),
        (opcode::UNLINK, 0),
        (opcode::RMDIR, 0),
        (opcode::RENAME, 8),
        (opcode::LINK, 8),
        (opcode::SETXATTR, 8),
        (opcode::GETXATTR, 8),
        (opcode::REMOVEXATTR, 0),
        (opcode::CREATE, 16),
        (opcode::RENAME2, 16),
    ];
    // No end, no start, two ends, and no name.
    let bodies: [&[u8]; 6] = [b"file", b"\0file\0", b"\0\0", b"\0", b"", b"..\0/\0"];

    for (opcode, head) in opcodes {
        for body in bodies {
            let bytes = [&vec![0; head][..], body].concat();
            let request = super::super::client::request(opcode, ROOT, &bytes);
            let answer = prison.guest.exchange(&request);
            let failed = answer.is_empty() || answer[4..8] != [0; 4];
            assert!(failed, "{opcode} {body:?}");
            // The length in the header is too large or too small.
            for len in [0u32, 40, request.len() as u32 + 1, 1 << 20, u32::MAX] {
                let lying = [&len.to_le_bytes()[..], &request[4..]].concat();
                prison.guest.exchange(&lying);
            }
        }
    }

    assert_eq!(fs::read_dir(prison.share()).unwrap().count(), before);
    assert!(prison.guest.lookup(ROOT, "file").is_ok());
}
