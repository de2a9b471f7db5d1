//! The mounts of the tests: as on a host with systemd, `/` is recursively shared.
//!
//! Every test program that links the harness moves into a mount namespace of its own before
//! `main`. There all mounts become shared among each other, and slaves of the machine's, so
//! that mounts of a test do not appear outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::bed::PREFIX;

#[ctor::ctor(unsafe)]
fn share_all_mounts() {
    // This fails for a program in a container, which has no beds; `assert_shared` reports the
    // failure if it matters.
    let _ = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
        propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SHARED)
    });
}

fn propagate(path: &Path, how: MsFlags) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, path, NONE, how, NONE)
}

/// A tmpfs that a test mounts on the host; unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one on `path`, which is made if needed.
    pub fn on(path: &Path) -> Self {
        fs::create_dir_all(path).expect("a folder of the test");
        let none = MsFlags::empty();
        mount(Some("tmpfs"), path, Some("tmpfs"), none, Some("size=1m"))
            .unwrap_or_else(|error| panic!("cannot mount a tmpfs on {}: {error}", path.display()));
        Self(path.to_owned())
    }

    /// Whether it is still mounted.
    pub fn is_there(&self) -> bool {
        table().iter().any(|mount| mount.point == self.0)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A mount of this process's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mounted {
    /// Its mount point.
    pub point: PathBuf,
    /// Its id, which is unique while it is mounted.
    id: u32,
    /// Whether mounts on it propagate to its peers.
    shared: bool,
}

/// The mount table, in the kernel's order.
pub fn table() -> Vec<Mounted> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        Some(Mounted {
            id: fields.next()?.parse().ok()?,
            point: fields.nth(3)?.into(),
            shared: line.contains(" shared:"),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// The mounts at or below `folder`, innermost last.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let points = table().into_iter().map(|mount| mount.point);
    points.filter(|point| point.starts_with(folder)).collect()
}

/// The mounts of the machine, without those of beds.
#[derive(Debug)]
pub struct Machine(BTreeSet<Mounted>);

impl Machine {
    /// The present mounts.
    ///
    /// # Panics
    /// If `/` is not shared, since propagation could not be seen then.
    pub fn now() -> Self {
        let root = table()
            .into_iter()
            .find(|mount| mount.point == Path::new("/"));
        assert!(
            root.is_some_and(|root| root.shared),
            "/ is not shared in the mount namespace of this test: is it run as root?"
        );
        Self(machine())
    }

    /// The differences to the present mounts, one line per mount.
    pub fn changes(&self) -> Vec<String> {
        let now = machine();
        let told = |what: &str, mount: &Mounted| format!("{what} {}", mount.point.display());
        let gone = self.0.difference(&now).map(|m| told("unmounted:", m));
        let new = now.difference(&self.0).map(|m| told("mount", m));
        gone.chain(new).collect()
    }
}

/// Beds check their own mounts, by name, since tests may run side by side. The first `ip netns
/// add` mounts `/run/netns` on itself, which stays.
fn machine() -> BTreeSet<Mounted> {
    let of_bed = |point: &Path| point.to_string_lossy().contains(PREFIX);
    let kept = |mount: &Mounted| !of_bed(&mount.point) && mount.point != Path::new("/run/netns");
    table().into_iter().filter(kept).collect()
}
