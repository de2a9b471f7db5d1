//! An archive is extracted into a directory that a guest changes at the same time. Files of the
//! host that the guest's links point to stay unchanged.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, lgetxattr, renameat_with};
use tar::{Builder, EntryType, Header};

use super::*;

/// A guest's directory, and files beside it that must not change.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("guest")).unwrap();
        fs::create_dir(dir.path().join("victims")).unwrap();
        fs::write(dir.path().join("victim"), "whole").unwrap();
        for (name, mode) in [("victim", 0o600), ("victims", 0o700)] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        Self { dir }
    }

    fn guest(&self, name: &str) -> PathBuf {
        self.dir.path().join("guest").join(name)
    }

    fn extract(&self, archive: impl Read) -> io::Result<LeftOut> {
        let into = File::open(self.guest("")).unwrap();
        extract(archive, into.into(), Ownership::Is(7, 8), Side::Container)
    }

    /// Modes, owners, times and an attribute of the host's files.
    fn victims(&self) -> Vec<(u32, u32, i64, bool)> {
        let one = |name: &str| {
            let path = self.dir.path().join(name);
            let data = fs::symlink_metadata(&path).unwrap();
            let note = lgetxattr(&path, "user.note", &mut [0u8; 8][..]).is_ok();
            (data.mode(), data.uid(), data.mtime(), note)
        };
        ["victim", "victims"].map(one).to_vec()
    }
}

fn archive(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    archive
        .append_pax_extensions([("SCHILY.xattr.user.note", &b"guest"[..])])
        .unwrap();
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o4777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
    archive.into_inner().unwrap()
}

/// A reader that calls a function between the header and the content of the archive's only
/// file.
struct Between<'a, F: FnMut()> {
    archive: &'a [u8],
    /// The offset of the content.
    content: usize,
    at: usize,
    act: F,
}

impl<F: FnMut()> Read for Between<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.content {
            (self.act)();
        }
        let end = if self.at < self.content {
            self.content
        } else {
            self.archive.len()
        };
        let read = (&self.archive[self.at..end]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

#[test]
fn a_file_that_is_swapped_for_a_link_while_it_is_written_is_not_followed() {
    let scene = Scene::new();
    let before = scene.victims();
    let archive = archive(EntryType::Regular, "f", b"content");
    let swap = || {
        fs::rename(scene.guest("f"), scene.guest("away")).unwrap();
        symlink(scene.dir.path().join("victim"), scene.guest("f")).unwrap();
    };
    let reader = Between {
        archive: &archive,
        content: 3 * 512,
        at: 0,
        act: swap,
    };
    scene.extract(reader).unwrap();
    assert_eq!(scene.victims(), before);
    // The file itself got the attributes, wherever it was moved.
    let data = fs::metadata(scene.guest("away")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.uid()), (0o4777, 7));
    assert_eq!(data.mtime(), 1_000_000);
    assert_eq!(fs::read(scene.guest("away")).unwrap(), b"content");
}

/// Extracts repeatedly while `swap` runs repeatedly.
fn while_swapping(scene: &Scene, archive: &[u8], swap: impl Fn() + Sync) {
    let before = scene.victims();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                swap();
            }
        });
        let mut changed = None;
        for turn in 0..3000 {
            // The extraction may fail if a file that it made has been moved.
            let _ = scene.extract(archive);
            let now = scene.victims();
            if now != before {
                changed = Some((turn, now));
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(changed, None);
    });
}

#[test]
fn directories_that_are_swapped_for_links_are_not_followed() {
    let scene = Scene::new();
    fs::create_dir(scene.guest("d")).unwrap();
    let victims = scene.dir.path().join("victims");
    let (d, l) = (scene.guest("d"), scene.guest("l"));
    while_swapping(&scene, &archive(EntryType::Directory, "d", b""), || {
        // A directory may have replaced the link.
        let _ = fs::remove_dir(&l);
        let _ = symlink(&victims, &l);
        for _there_and_back in 0..2 {
            let _ = renameat_with(CWD, &d, CWD, &l, RenameFlags::EXCHANGE);
        }
    });
}

#[test]
fn nodes_that_are_swapped_for_links_are_not_followed() {
    let scene = Scene::new();
    let (victim, link) = (scene.dir.path().join("victim"), scene.guest("l"));
    while_swapping(&scene, &archive(EntryType::Fifo, "f", b""), || {
        let _ = symlink(&victim, &link);
        if fs::symlink_metadata(scene.guest("f")).is_ok() {
            let _ = fs::rename(&link, scene.guest("f"));
        }
    });
}
