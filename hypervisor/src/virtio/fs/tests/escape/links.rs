//! Symbolic links: the guest gets their text, but not the files that they point to.

use std::fs;
use std::os::unix::fs::symlink;

use super::super::client::{ROOT, opcode, u64_at};
use super::{Prison, assault, halves};

const NAMES: &[&str] = &[
    "absolute",
    "relative",
    "directory",
    "up",
    "root",
    "chain",
    "longer",
    "loop",
    "dangling",
    "inside",
    "dir/deep",
];

/// The text of each link.
fn targets(prison: &Prison) -> Vec<(&'static str, String)> {
    let outside = prison.outside().to_str().unwrap().to_owned();
    let says = [
        format!("{outside}/secret"),
        "../outside/secret".into(),
        outside.clone(),
        "..".into(),
        "/".into(),
        "absolute".into(),
        "chain".into(),
        "loop".into(),
        format!("{outside}/new"),
        "dir".into(),
        "../../outside".into(),
    ];
    NAMES.iter().copied().zip(says).collect()
}

fn assault_all(prison: &mut Prison) {
    for (name, target) in targets(prison) {
        let (parent, name) = match name.split_once('/') {
            Some((dir, name)) => (prison.guest.node(&[dir]), name),
            None => (ROOT, name),
        };
        let node = u64_at(&prison.guest.lookup(parent, name).unwrap(), 0);
        let worked = assault(&mut prison.guest, parent, name, node);
        assert!(worked.is_empty(), "{name}: {worked:?}");
        let text = prison.guest.call(opcode::READLINK, node, &[]).unwrap();
        assert_eq!(text, target.as_bytes(), "{name}");
    }
}

#[test]
fn of_the_guest_are_not_followed() {
    let mut prison = Prison::new();
    fs::create_dir(prison.share().join("dir")).unwrap();
    for (name, target) in targets(&prison) {
        let (parent, name) = match name.split_once('/') {
            Some((dir, name)) => (prison.guest.node(&[dir]), name),
            None => (ROOT, name),
        };
        prison.guest.symlink(parent, name, &target).unwrap();
    }

    assault_all(&mut prison);
}

#[test]
fn of_the_host_are_not_followed() {
    let mut prison = Prison::new();
    fs::create_dir(prison.share().join("dir")).unwrap();
    for (name, target) in targets(&prison) {
        symlink(target, prison.share().join(name)).unwrap();
    }

    assault_all(&mut prison);
}

#[test]
fn are_linked_and_renamed_themselves() {
    let mut prison = Prison::new();
    let (share, outside) = (prison.share(), prison.outside());
    symlink(outside.join("secret"), share.join("secret")).unwrap();
    symlink(&outside, share.join("directory")).unwrap();
    fs::write(share.join("file"), "mine").unwrap();
    let guest = &mut prison.guest;
    let (secret, directory) = (guest.node(&["secret"]), guest.node(&["directory"]));

    let another = guest.named(opcode::LINK, ROOT, &halves(secret), &["another"]);
    let another = u64_at(&another.unwrap(), 0);
    assert_eq!(guest.open(another, libc::O_RDWR), Err(libc::EBADF));
    // Into the target of a link, and out of it.
    for [from, to] in [[ROOT, directory], [directory, ROOT]] {
        for names in [["file", "new"], ["secret", "stolen"]] {
            let moved = guest.named(opcode::RENAME, from, &halves(to), &names);
            assert_eq!(moved, Err(libc::ENOTDIR));
            let head = [halves(to), [2, 0]].concat();
            let swapped = guest.named(opcode::RENAME2, from, &head, &names);
            assert_eq!(swapped, Err(libc::ENOTDIR));
        }
        let linked = guest.named(opcode::LINK, directory, &halves(secret), &["new"]);
        assert_eq!(linked, Err(libc::ENOTDIR));
    }
    // A link with the new name is replaced, not followed.
    guest
        .named(opcode::RENAME, ROOT, &halves(ROOT), &["file", "secret"])
        .unwrap();

    assert_eq!(fs::read_to_string(share.join("secret")).unwrap(), "mine");
    assert!(
        fs::symlink_metadata(share.join("another"))
            .unwrap()
            .is_symlink()
    );
}
