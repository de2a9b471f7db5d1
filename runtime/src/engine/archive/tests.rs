//! Trees are packed and unpacked again, and read by GNU tar.

use super::*;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn packed(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut packer = Packer::new(&mut bytes);
    let root = File::open(dir).unwrap();
    packer.contents(root.as_fd(), Path::new("")).unwrap();
    packer.finish().unwrap();
    bytes
}

fn extracted(archive: &[u8], to: &Path) {
    let into = File::open(to).unwrap().into();
    let left_out = extract(archive, into, Ownership::Archived, Side::Container).unwrap();
    assert_eq!(left_out, LeftOut::default());
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/file"), "text").unwrap();
    fs::set_permissions(at("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(at("sub/file"), Some(5_000_000), Some(7)).unwrap();
    // Changing the owner removed the set-id bit.
    fs::set_permissions(at("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(at("sub/file"), at("zweit")).unwrap();
    symlink("/nowhere", at("link")).unwrap();
    rustix::fs::setxattr(
        at("sub"),
        c"user.note",
        b"line\none\0",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(at(&"n".repeat(200)), "long").unwrap();
    let mut sparse = File::create(at("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(8 << 20)).unwrap();
    sparse.write_all(b"middle").unwrap();
    sparse.set_len(16 << 20).unwrap();
    dir
}

fn compare(from: &Path, to: &Path) {
    for name in [
        "sub",
        "sub/file",
        "zweit",
        "link",
        "fifo",
        "sparse",
        &"n".repeat(200),
    ] {
        let (a, b) = (from.join(name), to.join(name));
        let (x, y) = (
            fs::symlink_metadata(&a).unwrap(),
            fs::symlink_metadata(&b).unwrap(),
        );
        assert_eq!(
            (x.mode(), x.uid(), x.gid(), x.mtime(), x.mtime_nsec()),
            (y.mode(), y.uid(), y.gid(), y.mtime(), y.mtime_nsec()),
            "{name}"
        );
        if x.is_file() {
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name}");
        }
    }
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("zweit"), inode("sub/file"));
    assert_eq!(
        fs::read_link(to.join("link")).unwrap(),
        Path::new("/nowhere")
    );
    let mut note = [0; 32];
    let len = rustix::fs::getxattr(to.join("sub"), c"user.note", &mut note[..]).unwrap();
    assert_eq!(&note[..len], b"line\none\0");
}

#[test]
fn what_is_packed_comes_out_the_same() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    extracted(&packed(from.path()), to.path());
    compare(from.path(), to.path());
    // Its holes are kept, too.
    assert!(fs::metadata(to.path().join("sparse")).unwrap().blocks() < 1000);
}

#[test]
fn gnu_tar_reads_it_with_holes_and_attributes() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let archive = packed(from.path());
    assert!(archive.len() < 1 << 20, "{}", archive.len());
    let file = to.path().join("archive");
    fs::write(&file, archive).unwrap();
    let out = to.path().join("out");
    fs::create_dir(&out).unwrap();
    let tar = Command::new("tar")
        .args(["--xattrs", "--same-owner", "-xpf"])
        .arg(&file)
        .current_dir(&out)
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    compare(from.path(), &out);
    assert!(fs::metadata(out.join("sparse")).unwrap().blocks() < 1000);
}

#[test]
fn a_file_that_loses_its_end_does_not_damage_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "12345678").unwrap();
    fs::write(dir.path().join("b"), "whole").unwrap();
    // A writer that truncates the file between the reads of its size and of its content.
    struct Cutting<'a>(Vec<u8>, &'a Path);
    impl Write for Cutting<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            File::options().write(true).open(self.1)?.set_len(3)?;
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let path = dir.path().join("a");
    let mut out = Cutting(Vec::new(), &path);
    let root = File::open(dir.path()).unwrap();
    let mut packer = Packer::new(&mut out);
    packer.contents(root.as_fd(), Path::new("")).unwrap();
    packer.finish().unwrap();

    let to = tempfile::tempdir().unwrap();
    extracted(&out.0, to.path());
    assert_eq!(fs::read(to.path().join("a")).unwrap(), b"123\0\0\0\0\0");
    assert_eq!(fs::read(to.path().join("b")).unwrap(), b"whole");
}

#[test]
fn names_are_kept_as_long_as_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "text").unwrap();
    fs::hard_link(dir.path().join("file"), dir.path().join("again")).unwrap();
    let root = File::open(dir.path()).unwrap();
    let pack = |room| {
        let mut bytes = Vec::new();
        let mut packer = Packer::new(&mut bytes);
        packer.room = room;
        let packed = packer.contents(root.as_fd(), Path::new(""));
        packed.and_then(|()| packer.finish()).map(|()| bytes)
    };
    assert!(pack(100).unwrap_err().to_string().contains("more names"));
    for (room, names) in [(1000, 2), (150, 1)] {
        let to = tempfile::tempdir().unwrap();
        extracted(&pack(room).unwrap(), to.path());
        let data = fs::metadata(to.path().join("file")).unwrap();
        assert_eq!(data.nlink(), names, "{room}");
        assert_eq!(fs::read(to.path().join("again")).unwrap(), b"text");
    }
}

#[test]
fn trees_too_deep_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d/".repeat(500));
    fs::create_dir_all(deep).unwrap();
    let root = File::open(dir.path()).unwrap();
    let mut packer = Packer::new(Vec::new());
    let refused = packer
        .tree(root.as_fd(), OsStr::new("d"), Path::new("d"))
        .unwrap_err();
    assert!(refused.to_string().contains("400 directories"), "{refused}");
}

/// Nodes are kept by number, and sockets are left out.
#[test]
fn devices_are_packed_by_their_numbers() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let dir = tempfile::tempdir().unwrap();
    for (name, kind, number) in [
        ("block", SFlag::S_IFBLK, makedev(7, 300)),
        ("char", SFlag::S_IFCHR, makedev(1, 3)),
    ] {
        mknod(&dir.path().join(name), kind, Mode::S_IRUSR, number).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let archive = packed(dir.path());
    let mut archive = ::tar::Archive::new(&archive[..]);
    let entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let numbers = (
                header.device_major().unwrap(),
                header.device_minor().unwrap(),
            );
            (
                entry.path().unwrap().into_owned(),
                header.entry_type(),
                numbers,
            )
        })
        .collect();
    let expected = |name: &str, kind, major, minor| (name.into(), kind, (Some(major), Some(minor)));
    assert_eq!(
        entries,
        [
            expected("block", ::tar::EntryType::Block, 7, 300),
            expected("char", ::tar::EntryType::Char, 1, 3),
        ]
    );
}

#[test]
fn the_side_that_fails_first_is_told() {
    use std::io::{Error, ErrorKind};
    let transferred = |bytes: &[u8], end: Option<ErrorKind>| {
        let to = tempfile::tempdir().unwrap();
        let into = File::open(to.path()).unwrap().into();
        let pack = |mut out: std::io::PipeWriter| {
            out.write_all(bytes)?;
            end.map_or(Ok(()), |kind| Err(Error::from(kind)))
        };
        transfer(pack, into, Ownership::Archived, Side::Container)
    };
    let whole = packed(tree().path());
    assert_eq!(transferred(&whole, None).unwrap(), LeftOut::default());
    let kind = |result: Result<LeftOut, TransferError>| match result {
        Err(TransferError::Source(error)) => ("source", error.kind()),
        Err(TransferError::Target(error)) => ("target", error.kind()),
        Ok(_) => panic!("it fails"),
    };
    let lost = ErrorKind::NotFound;
    assert_eq!(kind(transferred(&whole, Some(lost))), ("source", lost));
    let damaged = [b'x'; 512];
    assert_eq!(kind(transferred(&damaged, Some(lost))), ("source", lost));
    // The source fails because the target does.
    for end in [Some(ErrorKind::BrokenPipe), None] {
        assert_eq!(kind(transferred(&damaged, end)).0, "target", "{end:?}");
    }
}
