//! Containers get the mounts that their spec asks for, and see changes of files at once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use harness::oracle::compare;
use harness::spec::Spec;
use serde_json::json;

#[test]
fn bind_mounts_of_folders_and_files_read_and_write() {
    compare(|scene| {
        let host = scene.bed.fresh("host");
        fs::create_dir_all(host.join("dir/sub")).expect("ours");
        fs::write(host.join("dir/sub/given"), "from the host\n").expect("ours");
        fs::write(host.join("file"), "a file\n").expect("ours");
        symlink("file", host.join("link")).expect("ours");
        fs::set_permissions(host.join("dir"), fs::Permissions::from_mode(0o777)).expect("ours");
        let script = "cat /rw/sub/given /one /two/three /by-link
            echo made > /rw/made; mkdir /rw/folder; ln -s made /rw/soft; ln /rw/made /rw/hard
            chown 65534:65534 /rw/folder; chmod 2750 /rw/folder
            echo changed >> /one
            for f in /ro/new /ro-file; do echo x >> $f || echo $f refused; done
            mv /rw/sub/given /rw/moved; stat -c '%n %u %g %a %F' /rw/* | sort; readlink /rw/soft
            grep -c . /one";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .mount("bind", &host.join("dir"), "/rw", &["rbind", "rw"])
            .mount("bind", &host.join("dir"), "/ro", &["rbind", "ro"])
            .mount("bind", &host.join("file"), "/one", &["bind", "rw"])
            .mount("bind", &host.join("file"), "/two/three", &["bind", "rw"])
            .mount("bind", &host.join("link"), "/by-link", &["bind"])
            .mount("bind", &host.join("file"), "/ro-file", &["bind", "ro"]);

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
        assert!(
            output.out().contains("/ro/new refused\n/ro-file refused\n"),
            "{output:?}"
        );
        let made = fs::read_to_string(host.join("dir/made")).expect("made in the container");
        let folder = fs::metadata(host.join("dir/folder")).expect("made in the container");
        scene.see(
            "on the host",
            (made, folder.uid(), folder.gid(), folder.mode()),
        );
        scene.see("file", fs::read_to_string(host.join("file")).expect("ours"));
    });
}

#[test]
fn mounts_below_links_to_nothing_are_where_the_links_lead() {
    compare(|scene| {
        let host = scene.bed.fresh("host");
        fs::create_dir(&host).expect("ours");
        fs::write(host.join("file"), "given\n").expect("ours");
        let root = scene.bed.rootfs();
        fs::create_dir_all(root.join("var")).expect("ours");
        symlink("/nowhere/deep", root.join("absolute")).expect("ours");
        symlink("../../../up", root.join("var/up")).expect("ours");
        symlink("missing-file", root.join("name")).expect("ours");
        let script = "cat /absolute/file /nowhere/deep/file /up/sub/file /name /missing-file
            readlink /absolute /var/up /name; ls -d /nowhere/deep /up/sub";
        let spec = Spec::new(&root, &["sh", "-c", script])
            .mount("bind", &host, "/absolute", &["rbind", "ro"])
            .mount("bind", &host, "/var/up/sub", &["rbind", "ro"])
            .mount("bind", &host.join("file"), "/name", &["bind", "ro"]);

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
        let given = output.out().matches("given\n").count();
        assert_eq!(given, 5, "{output:?}");
        assert!(
            !std::path::Path::new("/nowhere").exists(),
            "made on the host"
        );
    });
}

#[test]
fn writes_are_seen_on_both_sides_at_once() {
    compare(|scene| {
        let host = scene.bed.fresh("host");
        fs::create_dir(&host).expect("ours");
        let spec = Spec::new(&scene.bed.rootfs(), &["sleep", "1000"]).mount(
            "bind",
            &host,
            "/v",
            &["rbind", "rw"],
        );
        scene.detach_spec("c", &spec);

        scene
            .exec("c", "w", &[], &["sh", "-c", "echo in > /v/a"])
            .ok();
        assert_eq!(
            fs::read_to_string(host.join("a")).expect("written in the container"),
            "in\n"
        );
        for word in ["first", "second", "third"] {
            fs::write(host.join("b"), format!("{word}\n")).expect("ours");
            let output = scene.exec("c", word, &[], &["cat", "/v/b"]).ok();
            assert_eq!(output.out(), format!("{word}\n"), "a stale read");
        }
        fs::remove_file(host.join("b")).expect("ours");
        let gone = scene.exec("c", "gone", &[], &["sh", "-c", "ls /v"]).ok();

        scene.see("after the removal", gone.out());
        scene.remove("c");
    });
}

#[test]
fn a_read_only_root_and_tmpfs() {
    compare(|scene| {
        let script = "touch /x || echo refused; touch /scratch/x && echo written
            grep ' /scratch ' /proc/mounts | cut -d' ' -f3; stat -c %a /scratch; grep ' / ' /proc/mounts | grep -o ' ro,'
            dd if=/dev/zero of=/scratch/big bs=1M count=3 2>/dev/null || echo full";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .set("/root/readonly", json!(true))
            .mount(
                "tmpfs",
                "tmpfs".as_ref(),
                "/scratch",
                &["nosuid", "noexec", "mode=700", "size=2m"],
            );
        // With runc a tmpfs has the mode of the folder that it covers.
        let covered = spec.0["root"]["path"]
            .as_str()
            .map(|root| format!("{root}/scratch"))
            .expect("a path");
        fs::create_dir(&covered).expect("ours");
        fs::set_permissions(&covered, fs::Permissions::from_mode(0o700)).expect("ours");

        let output = scene.run_spec("c", &spec);

        scene.see("stdout", output.out());
        assert_eq!(output.out(), "refused\nwritten\ntmpfs\n700\n ro,\nfull\n");
    });
}

#[test]
fn the_environment_of_mounts_is_that_of_the_spec() {
    compare(|scene| {
        let script = "for at in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /run; do
            awk -v at=$at '$2 == at { print $2, $3 }' /proc/mounts; done
            awk '$2 == \"/proc\" { print $4 }' /proc/mounts; test -w /sys/kernel || echo sys read-only";
        let output = scene.run_spec("c", &Spec::new(&scene.bed.rootfs(), &["sh", "-c", script]));

        scene.see("mounts", output.out());
    });
}
