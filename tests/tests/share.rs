//! The host's folders in containers: which file systems they see, and which files are the same.

use std::fs;
use std::path::{Path, PathBuf};

use harness::bed::Bed;
use harness::dist::{patience, subject_is_ours};
use harness::oracle::compare;
use harness::require;
use harness::run::Input;
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small file system, unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(bed: &Bed, name: &str) -> Self {
        let dir = bed.fresh(name);
        fs::create_dir(&dir).expect("the bed is ours");
        let options = Some("size=4m,mode=0755");
        mount(
            Some("tmpfs"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .expect("tests run as root");
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn volumes_are_file_systems_of_their_own() {
    compare(|scene| {
        let (a, b) = (Tmpfs::new(scene.bed, "a"), Tmpfs::new(scene.bed, "b"));
        // New file systems give their files the same inode numbers.
        for dir in [&a.0, &b.0] {
            fs::write(dir.join("f"), dir.file_name().unwrap().as_encoded_bytes()).unwrap();
            fs::create_dir(dir.join("sub")).unwrap();
        }
        let script = "\
            [ $(stat -c %i /a/f) = $(stat -c %i /b/f) ] && echo same number\n\
            [ $(stat -c %d /a/f) = $(stat -c %d /b/f) ] || echo two file systems\n\
            [ $(stat -c %d /a) = $(stat -c %d /) ] || echo not the root\n\
            [ $(stat -c %d /a) = $(stat -c %d /a/sub) ] && echo one with its folder\n\
            cp /a/f /b/f && cmp /a/f /b/f && echo copied\n\
            find / -xdev -name f\n\
            df -k /a | awk 'END { print $2, $6 }'\n\
            df -k /b/sub | awk 'END { print $2, $6 }'\n\
            ls -a /a\n\
            mv /a/f /b/moved && ls /b";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .mount("bind", &a.0, "/a", &["rbind"])
            .mount("bind", &b.0, "/b", &["rbind"]);
        let output = scene.run_spec("c", &spec);
        scene.see_output("two volumes", &output);
        assert!(output.out().contains("two file systems"), "{output:?}");
        drop((a, b));
        scene.bed.assert_clean();
    });
}

#[test]
fn a_file_system_below_a_volume_is_one_too() {
    compare(|scene| {
        let outer = Tmpfs::new(scene.bed, "outer");
        fs::create_dir(outer.0.join("inner")).unwrap();
        let inner = outer.0.join("inner");
        let options = Some("size=8m,mode=0755");
        mount(
            Some("tmpfs"),
            &inner,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .unwrap();
        let inner = Tmpfs(inner);
        for dir in [&outer.0, &inner.0] {
            fs::write(dir.join("f"), "").unwrap();
        }
        let script = "\
            cat /v/f /v/inner/f\n\
            [ $(stat -c %d /v/f) = $(stat -c %d /v/inner/f) ] || echo two file systems\n\
            find /v -xdev -name f\n\
            df -k /v/inner/ | awk 'END { print $2 }'\n\
            echo x > /v/inner/new && ls /v/inner";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script]).mount(
            "bind",
            &outer.0,
            "/v",
            &["rbind"],
        );
        scene.see_output("a mount below", &scene.run_spec("c", &spec));
        drop(inner);
        drop(outer);
        scene.bed.assert_clean();
    });
}

#[test]
fn set_id_bits_and_listings_are_as_anywhere() {
    compare(|scene| {
        let volume = scene.bed.fresh("volume");
        fs::create_dir(&volume).unwrap();
        let script = "\
            cd /v && echo x > f && chmod 6755 f && echo y >> f && stat -c %a f\n\
            : > f; stat -c %a f\n\
            chmod 666 f && chmod u+s f && su user -c 'echo z >> /v/f'; stat -c %a f\n\
            ls -a";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script]).mount(
            "bind",
            &volume,
            "/v",
            &["rbind"],
        );
        scene.see_output("bits", &scene.run_spec("c", &spec));
        scene.bed.assert_clean();
    });
}

/// A container that runs `meet` at `at`, the folder `dir` of the host.
fn meeting(scene: &Scene, role: &str, dir: &Path, at: &str) -> Spec {
    let meet = Path::new(env!("CARGO_BIN_EXE_meet"));
    let library = |name: &str| fs::canonicalize(name).expect("the host has it");
    Spec::new(&scene.bed.rootfs(), &["/meet", role, at])
        .mount("bind", meet, "/meet", &["bind", "ro"])
        .mount("bind", &library("/lib"), "/lib", &["rbind", "ro"])
        .mount("bind", &library("/lib64"), "/lib64", &["rbind", "ro"])
        .mount("bind", dir, at, &["rbind"])
}

#[test]
fn containers_of_a_pod_meet_at_the_files_of_a_folder() {
    compare(|scene| {
        let dir = scene.bed.fresh("dir");
        fs::create_dir(&dir).unwrap();
        let first = meeting(scene, "first", &dir, "/at").sandbox("one");
        let second = meeting(scene, "second", &dir, "/at").in_pod("one");

        let running = scene.start_spec("one", &["--rm"], &first, Input::Null);
        running.stdout.expect("ready", limit());
        let output = scene.run_spec("two", &second);
        scene.see_output("second", &output);
        scene.see_output("first", &running.finish(patience(60.0)));
        assert!(output.out().contains("socket: hello"), "{output:?}");
        scene.bed.assert_clean();
    });
}

/// As with the CRI: a tmpfs of the host, bound into all containers of the pod.
#[test]
fn shm_of_a_pod_is_memory_of_the_guest() {
    compare(|scene| {
        let sandbox = scene.bed.fresh("sandbox");
        fs::create_dir(&sandbox).unwrap();
        let shm = sandbox.join("shm");
        fs::create_dir(&shm).unwrap();
        let options = Some("size=5m,mode=1777");
        mount(Some("shm"), &shm, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        let shm = Tmpfs(shm);
        let first = meeting(scene, "first", &shm.0, "/dev/shm").sandbox("one");
        let second = meeting(scene, "second", &shm.0, "/dev/shm").in_pod("one");

        let running = scene.start_spec("one", &["--rm"], &first, Input::Null);
        running.stdout.expect("ready", limit());
        let script = "df -k /dev/shm | awk 'END { print $2, $6 }'; stat -c %a /dev/shm\n\
            dd if=/dev/zero of=/dev/shm/much bs=1M count=6 2> /dev/null || echo full";
        let look = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .mount("bind", &shm.0, "/dev/shm", &["rbind"])
            .in_pod("one");
        scene.see_output("look", &scene.run_spec("three", &look));
        scene.see_output("second", &scene.run_spec("two", &second));
        scene.see_output("first", &running.finish(patience(60.0)));
        let on_the_host = fs::read_dir(&shm.0).unwrap().count();
        assert_eq!(on_the_host == 0, scene.is_vm(), "{on_the_host} files");
        drop(shm);
        scene.bed.assert_clean();
    });
}

#[test]
fn a_folder_that_one_container_may_only_read_is_the_same_for_both() {
    compare(|scene| {
        let dir = scene.bed.fresh("dir");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("f"), "").unwrap();
        // The reader is first: later the mount becomes writable for the other container alone.
        let reader = "trap 'exit 0' TERM\n\
            echo x 2> /dev/null > /at/f || echo read-only\n\
            echo ready; until [ -s /at/f ]; do sleep 0.1; done; cat /at/f\n\
            echo x 2> /dev/null > /at/f || echo still read-only\n\
            stat -c %i /at/f";
        let reader = Spec::new(&scene.bed.rootfs(), &["sh", "-c", reader])
            .mount("bind", &dir, "/at", &["rbind", "ro"])
            .sandbox("one");
        let writer = "stat -c %i /at/f > /at/number && echo written > /at/f && echo done";
        let writer = Spec::new(&scene.bed.rootfs(), &["sh", "-c", writer])
            .mount("bind", &dir, "/at", &["rbind"])
            .in_pod("one");

        let running = scene.start_spec("one", &["--rm"], &reader, Input::Null);
        running.stdout.expect("ready", limit());
        scene.see_output("writer", &scene.run_spec("two", &writer));
        let output = running.finish(patience(60.0));
        let number = fs::read_to_string(dir.join("number")).unwrap();
        let told = output.out();
        assert!(told.ends_with(&number), "{told} {number}");
        let words: Vec<&str> = told.lines().take(4).collect();
        scene.see("reader", words);
        scene.bed.assert_clean();
    });
}

#[test]
fn a_folder_is_mounted_once_for_all_containers_of_a_pod() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let dir = bed.fresh("dir");
    fs::create_dir(&dir).unwrap();
    let spec = |pod: fn(Spec, &str) -> Spec, options: &[&str]| {
        let spec = Spec::new(&bed.rootfs(), &["sleep", "1000"]);
        pod(spec.mount("bind", &dir, "/at", options), "one")
    };
    scene.detach_spec("one", &spec(Spec::sandbox, &["rbind", "ro"]));
    let mounts = || -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_share = |line: &&str| line.contains("/shared/.sources/");
        let of_share = table.lines().filter(of_share);
        let flags = |line: &str| line.split(' ').nth(5).unwrap()[..2].to_owned();
        of_share.map(flags).collect()
    };
    assert_eq!(mounts(), ["ro"], "the host allows no writes yet");

    scene.detach_spec("two", &spec(Spec::in_pod, &["rbind", "ro"]));
    assert_eq!(mounts(), ["ro"]);
    scene.detach_spec("three", &spec(Spec::in_pod, &["rbind"]));
    assert_eq!(
        mounts(),
        ["ro", "rw"],
        "on top, for the container that writes"
    );
    scene.detach_spec("four", &spec(Spec::in_pod, &["rbind"]));
    assert_eq!(mounts(), ["ro", "rw"]);

    for id in ["two", "three"] {
        scene.remove(id);
    }
    assert_eq!(mounts(), ["ro", "rw"], "four still uses it");
    scene.remove("four");
    scene.remove("one");
    assert!(mounts().is_empty());
    bed.assert_clean();
}
