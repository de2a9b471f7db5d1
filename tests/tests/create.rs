//! How often a container's OCI spec is read and written on its way from the caller to the
//! guest.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use harness::bed::Bed;
use harness::dist::{subject, subject_is_ours};
use harness::pods::{SLEEP, exec, pod};
use harness::require;
use harness::spec::Spec;
use harness::task::{Bundle, Shim, Stdio};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

/// Counts how often a file is opened.
struct Opened(OwnedFd);

impl Opened {
    fn watch(path: &Path) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).expect("inotify");
        // The kernel merges events that follow an equal one, so the closes are watched, too.
        let events = WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&watch, path, events).expect("our file");
        Self(watch)
    }

    /// How often since the last call.
    fn count(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        std::iter::from_fn(|| events.next().ok().map(|event| event.events()))
            .filter(|events| events.contains(ReadFlags::OPEN))
            .count()
    }
}

#[test]
fn containerds_bundle_is_read_once_by_start_and_once_by_create() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["true"]));
    let opened = Opened::watch(&bundle.path.join("config.json"));
    let shim = Shim::start(&bed, &subject(), &bundle);
    // The shim is up when it answers: no container is known yet.
    shim.state("c", "").expect_err("no container");
    assert_eq!(opened.count(), 1, "by start");

    let stdio = Stdio::new(&bed);
    shim.create(&bundle, Some(&stdio), false).expect("create");
    assert_eq!(opened.count(), 1, "by create");

    shim.start_process("c", "").expect("start");
    shim.wait("c", "").expect("wait");
    shim.delete("c", "").expect("delete");
    assert_eq!(opened.count(), 0, "by start, wait and delete");
    shim.shutdown("c").expect("shutdown");
}

#[test]
fn a_container_of_the_engine_has_its_spec_in_its_definition_alone() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(exec(&bed, "c", "echo runs").ok().out(), "runs\n");

    let mut found = Vec::new();
    named("config.json", &bed.data().join("pods"), &mut found);
    let of_container = |path: &&PathBuf| {
        path.parent()
            .is_some_and(|dir| dir.ends_with("containers/c"))
    };
    assert_eq!(found.iter().filter(of_container).count(), 1, "{found:?}");
    // The pod's.
    assert_eq!(found.len(), 2, "{found:?}");
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
}

fn named(name: &str, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of the bed").flatten() {
        let kind = entry.file_type().expect("a file of the bed");
        if kind.is_dir() && entry.file_name() != "rootfs" {
            named(name, &entry.path(), found);
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
}
