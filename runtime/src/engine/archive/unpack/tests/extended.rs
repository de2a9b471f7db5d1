//! Entries that describe the next one: GNU's long names and links, pax's headers.

use super::*;

/// GNU tar's form of a name or link of more than 100 bytes: an entry before it.
fn long(kind: EntryType, text: &[u8]) -> impl FnOnce(Layer) -> Layer {
    let text = [text, b"\0"].concat();
    move |layer| layer.entry(kind, "././@LongLink", 0, "", &text)
}

#[test]
fn gnus_long_names_and_links_are_taken_whole_and_for_one_entry() {
    let (_dir, into) = place();
    let directory = "d".repeat(200);
    let (name, target) = (format!("{directory}/{}", "n".repeat(200)), "t".repeat(300));
    let layer = long(EntryType::GNULongName, name.as_bytes())(Layer::new());
    // The header's own name is only the beginning of the long one.
    let layer = layer.file(&name[..99], "content");
    let layer = long(
        EntryType::GNULongName,
        format!("{directory}/link").as_bytes(),
    )(layer);
    let layer = long(EntryType::GNULongLink, target.as_bytes())(layer);
    let layer = layer.link("x", &target[..99]);
    let layer = long(EntryType::GNULongLink, name.as_bytes())(layer);
    let layer = layer.hard("second", &name[..99]);
    layer
        .file("short", "s")
        .link("last", "short")
        .unpack(&into, &[])
        .unwrap();

    let data = |name: &str| fs::symlink_metadata(into.join(name)).unwrap();
    assert_eq!(fs::read(into.join(&name)).unwrap(), b"content");
    let link = fs::read_link(into.join(&directory).join("link")).unwrap();
    assert_eq!(link, Path::new(&target));
    assert_eq!(data("second").ino(), data(&name).ino());
    assert_eq!(fs::read(into.join("short")).unwrap(), b"s");
    assert_eq!(
        fs::read_link(into.join("last")).unwrap(),
        Path::new("short")
    );
    assert_eq!(fs::read_dir(&into).unwrap().count(), 4);
}

#[test]
fn gnus_and_paxs_names_lead_out_no_more_than_others() {
    let out = format!("{}../outside", "../".repeat(60));
    for kind in [EntryType::GNULongName, EntryType::GNULongLink] {
        for bad in ["/outside", &out] {
            let layer = long(kind, bad.as_bytes())(Layer::new());
            let said = refused(match kind {
                EntryType::GNULongName => layer.file("x", "evil"),
                _ => layer.hard("x", "y"),
            });
            assert!(said.contains("refused"), "{bad}: {said}");
        }
    }
    for (key, bad) in [("path", "../outside"), ("linkpath", "/outside")] {
        let layer = Layer::new().pax(key, bad.as_bytes());
        let said = refused(match key {
            "path" => layer.file("x", "evil"),
            _ => layer.hard("x", "y"),
        });
        assert!(said.contains("refused"), "{bad}: {said}");
    }
    // Bytes after the first NUL do not belong to the name.
    let (_dir, into) = place();
    let layer = long(EntryType::GNULongName, b"a\0/../../outside")(Layer::new());
    layer.file("x", "mine").unpack(&into, &[]).unwrap();
    assert_eq!(fs::read(into.join("a")).unwrap(), b"mine");
}

#[test]
fn gnus_names_go_before_paxs_and_both_before_the_headers() {
    let (_dir, into) = place();
    let layer = Layer::new().pax("path", b"pax").file("header", "1");
    let layer = layer.pax("path", b"other");
    let layer = long(EntryType::GNULongName, b"gnu")(layer).file("header", "2");
    let layer = layer.pax("linkpath", b"pax").hard("second", "header");
    layer.unpack(&into, &[]).unwrap();
    let read = |name: &str| fs::read(into.join(name)).unwrap();
    assert_eq!(
        (read("pax"), read("gnu"), read("second")),
        (b"1".to_vec(), b"2".to_vec(), b"1".to_vec())
    );
    assert_eq!(fs::read_dir(&into).unwrap().count(), 3);
}

#[test]
fn owners_and_sizes_of_extended_headers_count() {
    let (_dir, into) = place();
    let mut layer = Layer::new();
    let records = [("uid", &b"3000000"[..]), ("gid", b"4000000")];
    layer.0.append_pax_extensions(records).unwrap();
    layer.file("a", "x").unpack(&into, &[]).unwrap();
    let data = fs::metadata(into.join("a")).unwrap();
    assert_eq!((data.uid(), data.gid()), (3_000_000, 4_000_000));
    for (key, bad) in [
        ("uid", "x"),
        ("gid", "-1"),
        ("size", "1.5"),
        ("uid", "4294967296"),
    ] {
        let (_dir, into) = place();
        let layer = Layer::new().pax(key, bad.as_bytes()).file("a", "x");
        assert!(layer.unpack(&into, &[]).is_err(), "{key} {bad}");
        assert!(!into.join("a").exists(), "{key} {bad}");
    }
}

#[test]
fn descriptions_may_be_as_long_as_the_limit() {
    const LIMIT: usize = 1 << 20;
    // `LENGTH comment=…\n`, with this many bytes in all.
    let record = |length: usize| {
        let head = format!("{length} comment=");
        let mut record = head.clone().into_bytes();
        record.resize(length - 1, b'x');
        record.push(b'\n');
        record
    };
    for (length, taken) in [(LIMIT, true), (LIMIT + 1, false)] {
        let (_dir, into) = place();
        let layer = Layer::new().entry(EntryType::XHeader, "pax", 0, "", &record(length));
        let unpacked = layer.file("a", "x").unpack(&into, &[]);
        assert_eq!(unpacked.is_ok(), taken, "{length}");
        assert_eq!(into.join("a").exists(), taken, "{length}");
    }
}

#[test]
fn what_describes_nothing_is_an_error_and_what_describes_the_archive_is_not() {
    let (_dir, into) = place();
    let global = Layer::new().entry(EntryType::XGlobalHeader, "g", 0, "", b"14 comment=xy\n");
    global.file("a", "x").unpack(&into, &[]).unwrap();
    assert!(into.join("a").is_file());
    let (_dir, into) = place();
    Layer::new()
        .file("a", "x")
        .entry(EntryType::XGlobalHeader, "g", 0, "", b"14 comment=xy\n")
        .unpack(&into, &[])
        .unwrap();
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let (_dir, into) = place();
        let layer = Layer::new()
            .file("a", "x")
            .entry(kind, "x", 0, "", b"14 comment=xy\n");
        assert!(layer.unpack(&into, &[]).is_err(), "{kind:?}");
    }
}

#[test]
fn a_header_that_was_changed_is_an_error() {
    let whole = Layer::new().file("a", "x").0.into_inner().unwrap();
    for byte in [0, 50, 100, 147, 148, 156, 300, 511] {
        let (_dir, into) = place();
        fs::create_dir(&into).unwrap();
        let mut bytes = whole.clone();
        bytes[byte] = bytes[byte].wrapping_add(1);
        assert!(super::unpack(&bytes[..], &into, &[]).is_err(), "{byte}");
    }
}
