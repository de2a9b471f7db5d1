//! The VMM's jail, seen from the host, while a pod runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use harness::bed::Bed;
use harness::dist::{VMM, subject_is_ours};
use harness::require;
use harness::scene::Scene;
use harness::spec::Spec;

/// chown, dac_override, fowner, fsetid, setgid, setuid, setfcap: capabilities(7).
const FS_CAPABILITIES: u64 = 0x8000_00db;

/// `/proc/PID` of the only VMM of the bed.
fn vmm(bed: &Bed) -> PathBuf {
    let found = bed.named(VMM);
    let [process] = found.as_slice() else {
        panic!("one VMM is wanted, there are {found:?}");
    };
    PathBuf::from(format!("/proc/{}", process.pid))
}

/// The fields of a `status` file, proc(5).
fn status(dir: &std::path::Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(dir.join("status")).expect("it runs");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn threads(vmm: &std::path::Path) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(vmm.join("task")).expect("it runs");
    tasks
        .map(|task| status(&task.expect("readable").path()))
        .collect()
}

fn names(dir: PathBuf) -> BTreeSet<String> {
    fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("readable").file_name().into_string())
        .collect::<Result<_, _>>()
        .expect("UTF-8")
}

#[test]
fn namespaces_are_its_own() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);

    let vmm = vmm(&bed);

    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |dir: PathBuf| fs::read_link(dir.join("ns").join(kind)).expect("it runs");
        let (theirs, ours) = (of(vmm.clone()), of("/proc/self".into()));
        assert_ne!(theirs, ours, "{kind} namespace");
    }
    // It is the first process of its pid namespace, and sees no other.
    assert!(status(&vmm)["NSpid"].ends_with("\t1"));
    let interfaces = fs::read_to_string(vmm.join("net/dev")).expect("it runs");
    let interfaces = interfaces.lines().filter_map(|line| line.split_once(':'));
    let interfaces: Vec<&str> = interfaces.map(|(name, _)| name.trim()).collect();
    assert_eq!(interfaces, ["lo"]);
    // The owner of a file on the share is the same on both sides.
    let ids = fs::read_to_string(vmm.join("uid_map")).expect("it runs");
    let ids: Vec<&str> = ids.split_whitespace().collect();
    assert_eq!(ids, ["0", "0", "4294967295"]);
    scene.remove("c");
    bed.assert_clean();
}

#[test]
fn root_holds_nothing_but_what_is_served() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let volume = bed.fresh("volume");
    fs::create_dir(&volume).expect("the bed is ours");
    let spec = Spec::new(&bed.rootfs(), &["sleep", "1000"]).mount(
        "bind",
        &volume,
        "/volume",
        &["rbind", "ro"],
    );
    scene.detach_spec("c", &spec);

    let vmm = vmm(&bed);

    let root = vmm.join("root");
    let list = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    assert_eq!(names(root.clone()), list(&["proc", "share", "vsock"]));
    assert_eq!(names(root.join("proc")), list(&["self"]));
    assert_eq!(names(root.join("proc/self")), list(&["fd"]));
    assert_eq!(names(root.join("share")), list(&[".sources", "c"]));
    assert_eq!(names(root.join("vsock")), list(&["vsock", "vsock_1024"]));
    // Later mounts of the owner are there, and no mount lets the VMM open devices or run
    // programs.
    let mounts = fs::read_to_string(vmm.join("mountinfo")).expect("it runs");
    let flags: BTreeMap<&str, Vec<&str>> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|fields| (fields[4], fields[5].split(',').collect()))
        .collect();
    assert!(flags.contains_key("/share/c/rootfs"), "{mounts}");
    for (point, flags) in &flags {
        for wanted in ["nosuid", "nodev", "noexec"] {
            assert!(flags.contains(&wanted), "{point} is not {wanted}: {mounts}");
        }
    }
    assert!(flags["/"].contains(&"ro"), "{mounts}");
    // A tmpfs for mount points.
    assert!(flags["/share"].contains(&"ro"), "{mounts}");
    assert!(flags["/share/c/rootfs"].contains(&"rw"), "{mounts}");
    let volume = flags
        .iter()
        .find(|(point, _)| point.starts_with("/share/.sources/"))
        .unwrap_or_else(|| panic!("no volume in {mounts}"));
    assert!(volume.1.contains(&"ro"), "the volume is writable: {mounts}");
    scene.remove("c");
    bed.assert_clean();
}

#[test]
fn only_the_file_servers_have_capabilities() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);

    let threads = threads(&vmm(&bed));

    let mut with = BTreeSet::new();
    for thread in &threads {
        let set = |name: &str| u64::from_str_radix(&thread[name], 16).expect("hexadecimal");
        let name = thread["Name"].as_str();
        assert_eq!(set("CapAmb") | set("CapInh"), 0, "{thread:?}");
        assert_eq!(set("CapBnd") & !FS_CAPABILITIES, 0, "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
        match set("CapPrm") | set("CapEff") {
            0 => {}
            FS_CAPABILITIES => {
                with.insert(name.split('-').next().unwrap_or(name));
            }
            other => panic!("{name} has capabilities {other:#x}"),
        }
    }
    assert_eq!(with, BTreeSet::from(["fs", "spawner"]), "{threads:?}");
    assert!(threads.len() > 6, "{threads:?}");
    scene.remove("c");
    bed.assert_clean();
}

#[test]
fn limits_leave_no_core_and_room_for_files() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);

    let limits = fs::read_to_string(vmm(&bed).join("limits")).expect("it runs");

    let soft_and_hard = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name));
        let rest = &line.unwrap_or_else(|| panic!("no {name} in {limits}"))[name.len()..];
        let mut words = rest.split_whitespace().map(str::to_owned);
        (words.next(), words.next())
    };
    let zero = || Some("0".to_owned());
    assert_eq!(soft_and_hard("Max core file size"), (zero(), zero()));
    assert_eq!(soft_and_hard("Max msgqueue size"), (zero(), zero()));
    let (soft, hard) = soft_and_hard("Max open files");
    assert_eq!(soft, hard);
    scene.remove("c");
    bed.assert_clean();
}

#[test]
fn nothing_is_served_without_a_jail() {
    require!(subject_is_ours());
    let output = std::process::Command::new(harness::dist::binary(VMM))
        .args(["--control-fd", "3", "--share", "/", "--sockets", "/tmp"])
        .output()
        .expect("it is built");

    assert!(!output.status.success(), "{output:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!mounts.contains(" /proc/share "), "{mounts}");
}
