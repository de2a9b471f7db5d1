//! Mounts of the host below the share are part of it, but allow no escape.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::client::{Client, ROOT, opcode, u64_at};
use super::super::jail::in_own_process;
use super::{Prison, assault, halves};

/// From now on, only this thread and the threads that it starts see its mounts.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

fn bind(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>).unwrap();
}

/// A process with files outside the share, and its files below `/proc`.
struct Victim(Child);

impl Victim {
    fn new(outside: &Path) -> Victim {
        let mut command = Command::new("sleep");
        command.arg("1000").current_dir(outside);
        command.stdin(File::open(outside.join("secret")).unwrap());
        command.stdout(File::open(outside.join("dir")).unwrap());
        Victim(command.spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn magic_links_of_proc_are_not_followed() {
    let test = "virtio::fs::tests::escape::mounts::magic_links_of_proc_are_not_followed";
    let Some(place) = in_own_process(test) else {
        return;
    };
    own_mounts();
    Prison::build(&place);
    bind(Path::new("/proc"), &place.join("share/proc"));
    let victim = Victim::new(&place.join("outside"));
    let pid = victim.0.id().to_string();
    let own = std::process::id().to_string();
    let mut prison = Prison::at(&place);

    let links: [&[&str]; 12] = [
        &["proc", "self"],
        &["proc", "thread-self"],
        &["proc", "mounts"],
        &["proc", &pid, "root"],
        &["proc", &pid, "cwd"],
        &["proc", &pid, "exe"],
        &["proc", &pid, "fd", "0"],
        &["proc", &pid, "fd", "1"],
        &["proc", &pid, "ns", "mnt"],
        &["proc", &pid, "task", &pid, "root"],
        &["proc", "1", "root"],
        &["proc", &own, "cwd"],
    ];
    for path in links {
        let (name, parents) = path.split_last().unwrap();
        let parent = prison.guest.node(parents);
        let node = u64_at(&prison.guest.lookup(parent, name).unwrap(), 0);
        let worked = assault(&mut prison.guest, parent, name, node);
        assert!(worked.is_empty(), "{path:?}: {worked:?}");
        let linked = prison
            .guest
            .named(opcode::LINK, ROOT, &halves(node), &["stolen"]);
        assert_eq!(linked, Err(libc::EXDEV), "{path:?}");
    }
}

#[test]
fn mount_below_is_part_of_the_share() {
    let test = "virtio::fs::tests::escape::mounts::mount_below_is_part_of_the_share";
    let Some(place) = in_own_process(test) else {
        return;
    };
    own_mounts();
    Prison::build(&place);
    let volume = place.join("volumes/one");
    fs::create_dir_all(volume.join("dir")).unwrap();
    fs::write(volume.join("file"), "of the volume").unwrap();
    fs::write(place.join("volumes/secret"), super::SECRET).unwrap();
    symlink("../../outside", volume.join("link")).unwrap();
    symlink("../secret", volume.join("up")).unwrap();
    bind(&volume, &place.join("share/volume"));
    let mut prison = Prison::at(&place);
    // A later mount works, too.
    bind(&volume, &place.join("share/later"));

    for name in ["volume", "later"] {
        let guest = &mut prison.guest;
        let (root, dir) = (guest.node(&[name]), guest.node(&[name, "dir"]));
        let file = guest.node(&[name, "file"]);
        let handle = guest.open(file, libc::O_RDWR).unwrap();
        assert_eq!(guest.read(file, handle, 100).unwrap(), b"of the volume");
        for node in [root, dir] {
            for up in ["..", "../secret", "../.."] {
                assert_eq!(guest.lookup(node, up), Err(libc::EINVAL));
            }
        }
        for link in ["link", "up"] {
            let node = guest.node(&[name, link]);
            assert_eq!(assault(guest, root, link, node), Vec::<String>::new());
        }
        // Renames and links do not cross a mount, and it cannot be removed.
        crosses(guest, root, file);
        let removed = guest.named(opcode::RMDIR, ROOT, &[], &[name]);
        assert_eq!(removed, Err(libc::EBUSY));
    }
}

fn crosses(guest: &mut Client, volume: u64, file: u64) {
    let moved = guest.named(opcode::RENAME, volume, &halves(ROOT), &["file", "x"]);
    assert_eq!(moved, Err(libc::EXDEV));
    let linked = guest.named(opcode::LINK, ROOT, &halves(file), &["x"]);
    assert_eq!(linked, Err(libc::EXDEV));
}
