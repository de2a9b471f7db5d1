//! Ordinary layers, and malicious ones.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use rustix::fs::lgetxattr;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

mod extended;

/// Builds an archive.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry with any name.
    fn entry(mut self, kind: EntryType, name: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, mode, "", b"")
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, 0o644, "", content.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, 0o777, target, b"")
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, 0o644, target, b"")
    }

    fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    fn unpack(self, into: &Path, lower: &[PathBuf]) -> Result<Unpacked, UnpackError> {
        let bytes = self.0.into_inner().unwrap();
        fs::create_dir_all(into).unwrap();
        super::unpack(&bytes[..], into, lower)
    }
}

/// A directory for layers, and next to it a file that must not change.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "whole").unwrap();
    let layer = dir.path().join("layer");
    (dir, layer)
}

fn refused(layer: Layer) -> String {
    let (dir, into) = place();
    let said = layer.unpack(&into, &[]).unwrap_err().to_string();
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{said}");
    said
}

fn opaque(path: &Path) -> bool {
    lgetxattr(path, "trusted.overlay.opaque", &mut [0u8; 8][..]) == Ok(1)
}

fn whiteout(path: &Path) -> bool {
    let data = fs::symlink_metadata(path);
    data.is_ok_and(|data| data.file_type().is_char_device() && data.rdev() == 0)
}

#[test]
fn everything_that_a_file_has_is_kept() {
    let (_dir, into) = place();
    let unpacked = Layer::new()
        .dir("./", 0o711)
        .dir("d", 0o1750)
        .pax("SCHILY.xattr.user.note", b"hello\n\0")
        .file("d/file", "content")
        .entry(EntryType::Regular, "d/suid", 0o4755, "", b"x")
        .link("d/link", "../../outside")
        .hard("d/second", "d/file")
        .entry(EntryType::Fifo, "d/fifo", 0o600, "", b"")
        .unpack(&into, &[])
        .unwrap();
    assert_eq!(
        unpacked,
        Unpacked {
            size: 8,
            opaque: false
        }
    );
    let data = |name: &str| fs::symlink_metadata(into.join(name)).unwrap();
    let mode = |name: &str| data(name).permissions().mode() & 0o7777;
    assert_eq!(
        (mode(""), mode("d"), mode("d/suid")),
        (0o711, 0o1750, 0o4755)
    );
    for name in ["", "d", "d/file", "d/suid", "d/link", "d/fifo"] {
        let data = data(name);
        assert_eq!(
            (data.uid(), data.gid(), data.mtime()),
            (7, 8, 1_000_000),
            "{name}"
        );
    }
    assert_eq!(fs::read(into.join("d/file")).unwrap(), b"content");
    assert_eq!(data("d/file").ino(), data("d/second").ino());
    assert!(data("d/fifo").file_type().is_fifo());
    assert_eq!(
        fs::read_link(into.join("d/link")).unwrap(),
        Path::new("../../outside")
    );
    let mut value = [0u8; 16];
    let size = lgetxattr(into.join("d/file"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..size], b"hello\n\0");
}

#[test]
fn names_that_lead_out_of_the_layer_are_refused() {
    for name in [
        "../outside",
        "/outside",
        "a/../../outside",
        "..",
        ".wh...",
        "a/.wh...",
    ] {
        let said = refused(Layer::new().file(name, "evil"));
        assert!(said.contains("refused"), "{name}: {said}");
    }
    for target in ["../outside", "/outside"] {
        let said = refused(Layer::new().hard("x", target));
        assert!(said.contains("refused"), "{target}: {said}");
    }
}

#[test]
fn links_do_not_lead_out_of_the_layer() {
    // A link used as a directory leads to the layer's own root.
    for target in ["..", "/", "../../..", "/proc/self/cwd/.."] {
        let (dir, into) = place();
        let layer = Layer::new().link("out", target).file("out/outside", "evil");
        let _ = layer.unpack(&into, &[]);
        assert_eq!(
            fs::read(dir.path().join("outside")).unwrap(),
            b"whole",
            "{target}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{target}");
    }
    // A link as a file's name is replaced, not followed.
    let (dir, into) = place();
    let layer = Layer::new().link("x", "../outside").file("x", "mine");
    layer.unpack(&into, &[]).unwrap();
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"whole");
    assert_eq!(fs::read(into.join("x")).unwrap(), b"mine");
    // A hard link to a symbolic link is another name of that link.
    let (dir, into) = place();
    let layer = Layer::new()
        .link("x", "../outside")
        .hard("y", "x")
        .file("y", "mine");
    layer.unpack(&into, &[]).unwrap();
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"whole");
    assert!(into.join("x").is_symlink());
    // A hard link cannot reach the target of a link to the host.
    assert!(refused(Layer::new().link("out", "..").hard("y", "out/outside")).contains("refused"));
}

#[test]
fn links_to_directories_are_followed_inside() {
    let (_dir, into) = place();
    let layer = Layer::new()
        .dir("usr/lib", 0o755)
        .link("lib", "/usr/lib")
        .file("lib/a.so", "a");
    layer.unpack(&into, &[]).unwrap();
    assert_eq!(fs::read(into.join("usr/lib/a.so")).unwrap(), b"a");
    assert!(into.join("lib").is_symlink());
}

#[test]
fn whiteouts_hide_what_is_below_and_not_what_is_beside() {
    let (_dir, into) = place();
    let unpacked = Layer::new()
        .file("a/.wh.gone", "")
        .dir("b", 0o755)
        .file("b/.wh..wh..opq", "")
        .file("b/new", "n")
        // What the layer itself has stays, in either order.
        .file("kept", "k")
        .file(".wh.kept", "")
        .file(".wh.later", "")
        .file("later", "l")
        .file(".wh.dir", "")
        .file("dir/x", "x")
        .file(".wh..wh.plnk", "")
        .unpack(&into, &[])
        .unwrap();
    assert!(!unpacked.opaque);
    assert!(whiteout(&into.join("a/gone")) && !opaque(&into.join("a")));
    assert!(opaque(&into.join("b")) && into.join("b/new").is_file());
    assert!(into.join("kept").is_file() && into.join("later").is_file());
    assert!(into.join("dir/x").is_file() && opaque(&into.join("dir")));
    assert!(!into.join(".wh..wh.plnk").exists());

    let (_dir, into) = place();
    let unpacked = Layer::new().file(".wh..wh..opq", "").unpack(&into, &[]);
    assert!(unpacked.unwrap().opaque);
}

#[test]
fn directories_that_are_only_meant_are_as_in_the_layers_below() {
    let (dir, into) = place();
    let below = dir.path().join("below");
    let secret = Layer::new().dir("./", 0o711).dir("secret", 0o700);
    secret.unpack(&below, &[]).unwrap();
    let layer = Layer::new().file("secret/new/x", "x");
    layer.unpack(&into, &[below]).unwrap();
    let stat = |name: &str| {
        let data = fs::metadata(into.join(name)).unwrap();
        (data.permissions().mode() & 0o7777, data.uid(), data.mtime())
    };
    assert_eq!(stat("").0, 0o711);
    assert_eq!(stat("secret"), (0o700, 7, 1_000_000));
    assert_eq!((stat("secret/new").0, stat("secret/new").1), (0o755, 0));
}

#[test]
fn overlayfs_is_not_told_what_to_do() {
    for name in ["redirect", "opaque", "metacopy"] {
        let key = format!("SCHILY.xattr.trusted.overlay.{name}");
        let said = refused(Layer::new().pax(&key, b"/etc").dir("d", 0o755));
        assert!(said.contains("overlayfs"), "{said}");
    }
}

#[test]
fn a_file_takes_the_place_of_a_directory_and_the_other_way_round() {
    let (_dir, into) = place();
    let layer = Layer::new()
        .file("a/b/c", "x")
        .file("a", "file")
        .file("d", "file")
        .dir("d", 0o755)
        .file("d/e", "y");
    layer.unpack(&into, &[]).unwrap();
    assert!(into.join("a").is_file() && into.join("d/e").is_file());
    let said = refused(Layer::new().file("a", "x").file("a/b", "y"));
    assert!(said.contains("is not a directory"), "{said}");
}

#[test]
fn descriptions_without_end_are_not_kept() {
    let long = vec![b'a'; 5 << 20];
    let said = refused(Layer::new().pax("comment", &long).file("a", ""));
    assert!(said.contains("MiB"), "{said}");
    let said = refused(Layer::new().entry(EntryType::GNULongName, "././@LongLink", 0, "", &long));
    assert!(said.contains("MiB"), "{said}");
}

#[test]
fn files_with_holes_have_holes() {
    let sparse = |map: &[u8], content: &[u8], size: &[u8]| {
        let mut archived = map.to_vec();
        archived.resize(512, 0);
        archived.extend(content);
        let archived = String::from_utf8(archived).unwrap();
        let mut layer = Layer::new();
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"d/file"),
            ("GNU.sparse.realsize", size),
        ];
        layer.0.append_pax_extensions(records).unwrap();
        layer.file("GNUSparseFile.0/file", &archived)
    };
    let (_dir, into) = place();
    // The largest possible size: it takes no space on the disk.
    let unpacked = sparse(
        b"2\n8388608\n6\n4398046511104\n0\n",
        b"middle",
        b"4398046511104",
    )
    .unpack(&into, &[])
    .unwrap();
    assert_eq!(unpacked.size, 6);
    let data = fs::metadata(into.join("d/file")).unwrap();
    assert_eq!((data.len(), data.uid()), (1 << 42, 7));
    assert!(data.blocks() < 1000, "{}", data.blocks());
    let mut middle = [0; 8];
    let file = fs::File::open(into.join("d/file")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut middle, (8 << 20) - 1).unwrap();
    assert_eq!(&middle, b"\0middle\0");

    for (map, content, size) in [
        (&b"1\n0\n6\n"[..], &b"more than the map"[..], &b"6"[..]),
        (b"1\n0\n60\n", b"less", b"60"),
        (b"1\n0\n6\n", b"beyond", b"5"),
        (b"1\n0\n6\n", b"nobody", b"x"),
    ] {
        let (_dir, into) = place();
        assert!(sparse(map, content, size).unpack(&into, &[]).is_err());
    }
    // Earlier forms of sparse files need more than their header.
    let said = refused(
        Layer::new()
            .pax("GNU.sparse.numblocks", b"1")
            .file("a", "x"),
    );
    assert!(said.contains("sparse"), "{said}");
}

#[test]
fn what_is_cut_off_is_an_error() {
    let bytes = Layer::new()
        .file("a", &"x".repeat(2000))
        .0
        .into_inner()
        .unwrap();
    for end in [100, 600, 1000, 2500] {
        let (_dir, into) = place();
        fs::create_dir(&into).unwrap();
        assert!(super::unpack(&bytes[..end], &into, &[]).is_err(), "{end}");
    }
}

#[test]
fn places_outside_are_not_what_they_seem() {
    // This checks the test itself: a careless unpacker would follow this link.
    let (dir, into) = place();
    fs::create_dir(&into).unwrap();
    symlink("..", into.join("out")).unwrap();
    assert_eq!(fs::read(into.join("out/outside")).unwrap(), b"whole");
    drop(dir);
}

#[test]
fn directories_below_that_cannot_be_looked_at_are_errors() {
    let (dir, into) = place();
    let [upper, lowest] = ["upper", "lowest"].map(|name| dir.path().join(name));
    Layer::new()
        .dir("secret", 0o700)
        .unpack(&lowest, &[])
        .unwrap();
    Layer::new().dir("./", 0o755).unpack(&upper, &[]).unwrap();
    let layer = || Layer::new().file("secret/x", "x");
    let lower = [lowest.clone(), upper.clone()];
    layer().unpack(&into, &lower).unwrap();
    let mode = |name: &Path| fs::metadata(name).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&into.join("secret")), 0o700);
    // A file that hides it: the new directory does not get the attributes from below.
    fs::write(upper.join("secret"), "").unwrap();
    fs::remove_dir_all(&into).unwrap();
    layer().unpack(&into, &lower).unwrap();
    assert_eq!(mode(&into.join("secret")), 0o755);
    // A missing layer may have had the directory.
    fs::remove_file(upper.join("secret")).unwrap();
    fs::remove_dir_all(&lowest).unwrap();
    fs::remove_dir_all(&into).unwrap();
    let failed = layer().unpack(&into, &lower).unwrap_err();
    assert!(
        matches!(
            failed,
            UnpackError::Entry {
                failure: Failure::Io(..),
                ..
            }
        ),
        "{failed}"
    );
    assert!(!into.join("secret/x").exists());
}
