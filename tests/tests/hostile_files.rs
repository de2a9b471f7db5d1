//! Copies into and out of containers that try to change the host's files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::require;
use harness::run::{Input, Output, Running, run};
use harness::scene::limit;
use tar::{Builder, EntryType, Header};

/// A container with a busybox directory that only waits; returns the path of its root.
fn container(bed: &Bed, words: &[&str]) -> PathBuf {
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let args = ["run", "-d", "--name", "c", "--rootfs", root];
    let args = [&args[..], words, &["--", "sleep", "100000"]].concat();
    run(bed.cli(&args), Input::Null, limit()).ok();
    rootfs
}

fn exec(bed: &Bed, script: &str) -> Output {
    let words = ["container", "exec", "c", "sh", "-c", script];
    run(bed.cli(&words), Input::Null, limit()).ok()
}

fn cp(bed: &Bed, from: &str, to: &str) -> Output {
    run(
        bed.cli(&["container", "cp", from, to]),
        Input::Null,
        limit(),
    )
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o4777);
    header.set_uid(1);
    header.set_gid(1);
    header.set_size(content.len() as u64);
    archive
        .append_data(&mut header, name, content)
        .expect("an entry");
    archive.into_inner().expect("an archive")
}

/// The attributes of a host's file that must not change.
fn state(path: &Path) -> (u32, u32, i64) {
    let data = fs::metadata(path).expect("it is there");
    (data.mode(), data.uid(), data.mtime())
}

#[test]
fn a_link_that_a_guest_puts_in_place_of_a_file_does_not_reach_the_hosts() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = container(&bed, &[]);
    let victim = bed.fresh("victim");
    fs::write(&victim, "secret").expect("ours");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("ours");
    let before = state(&victim);
    let archive = file("f", &[b'x'; 4096]);

    // The guest acts while the file is half copied.
    let command = bed.cli(&["container", "cp", "-", "c:/tmp"]);
    let mut copying = Running::spawn(command, Input::Open);
    copying.send(&archive[..2048]);
    let swap = format!(
        "until [ -e /tmp/f ]; do :; done; mv /tmp/f /tmp/away; ln -s {} /tmp/f",
        victim.display()
    );
    exec(&bed, &format!("mkdir -p /tmp; {swap}"));
    copying.send(&archive[2048..]);
    copying.close_stdin();
    copying.finish(limit()).ok();

    assert_eq!(state(&victim), before, "the host's file was changed");
    let away = fs::metadata(rootfs.join("tmp/away")).expect("moved");
    assert_eq!((away.mode() & 0o7777, away.len()), (0o4777, 4096));
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();
}

#[test]
fn what_is_copied_out_has_no_rights_and_its_holes() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let host = bed.fresh("bound");
    fs::create_dir(&host).expect("ours");
    let bind = format!("{}:/bound", host.display());
    let rootfs = container(&bed, &["-v", &bind]);
    exec(
        &bed,
        "mkdir -p /out/dir; echo x > /out/suid; chmod 6755 /out/suid; chmod 2775 /out/dir
         echo tail > /out/holes; truncate -s 1024G /out/holes; mkfifo /out/fifo",
    );
    // A guest cannot make one, but an image may contain it.
    let kind = nix::sys::stat::SFlag::S_IFBLK;
    let rw = nix::sys::stat::Mode::from_bits_truncate(0o666);
    let disk = nix::sys::stat::makedev(7, 0);
    nix::sys::stat::mknod(&rootfs.join("out/disk"), kind, rw, disk).expect("root makes devices");
    let here = bed.fresh("here");
    let to = here.to_str().expect("text");

    let out = cp(&bed, "c:/out", to).ok();

    assert!(
        out.err().contains("1 device node(s) were left out"),
        "{out:?}"
    );
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    assert_eq!(
        (mode(&here.join("suid")), mode(&here.join("dir"))),
        (0o755, 0o775)
    );
    let holes = fs::metadata(here.join("holes")).expect("it is there");
    assert_eq!(holes.len(), 1 << 40);
    assert!(holes.blocks() < 1000, "{} blocks", holes.blocks());
    assert!(!here.join("disk").exists() && here.join("fifo").exists());
    let refused = cp(&bed, "c:/out/disk", &format!("{to}/disk")).exits(125);
    assert!(refused.err().contains("device node"), "{refused:?}");

    // A folder of the host that is bound into a container gets the host's restrictions.
    cp(&bed, "c:/out", "c:/bound/").ok();
    assert_eq!(mode(&host.join("out/suid")), 0o755);
    assert!(!host.join("out/disk").exists());
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();
}

#[test]
fn filling_a_volume_brings_no_file_of_the_host_into_the_guest() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let secret = bed.fresh("secret");
    fs::create_dir(&secret).expect("ours");
    fs::write(secret.join("key"), "secret").expect("ours");
    // A container with the same root replaces a directory by a link repeatedly.
    let rootfs = container(&bed, &[]);
    fs::create_dir_all(rootfs.join("data/sub")).expect("ours");
    fs::write(rootfs.join("data/sub/key"), "own").expect("ours");
    for n in 0..200 {
        fs::create_dir_all(rootfs.join(format!("data/a{n}/b"))).expect("ours");
    }
    symlink(&secret, rootfs.join("data/link")).expect("ours");
    let swap = "cd /data; while :; do mv sub x; mv -T link sub; mv -T sub link; mv x sub; done";
    let words = ["container", "exec", "-d", "c", "sh", "-c", swap];
    bed.rust_kata(&words).ok();

    let root = rootfs.to_str().expect("an ASCII path");
    let script = "find /data -type f -exec cat {} +";
    for turn in 0..3 {
        let volume = format!("v{turn}:/data");
        let words = [
            "run", "--rm", "--rootfs", root, "-v", &volume, "--", "sh", "-c", script,
        ];
        let said = run(bed.cli(&words), Input::Null, limit());
        assert!(!said.out().contains("secret"), "{said:?}");
    }
    bed.rust_kata(&["container", "rm", "-f", "--time", "0", "c"])
        .ok();
    bed.rust_kata(&["volume", "prune"]).ok();
}
