//! The host's cgroup hierarchies, and the directories of a cgroup in them.

use std::path::{Path, PathBuf};

use crate::host::mountinfo::unescape;

/// The cgroup v1 hierarchies that the pod's processes join: those with accounting. (cpuset
/// would need its CPUs and nodes set first.)
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// A mount of a hierarchy, or of a part of one (proc(5), `/proc/<pid>/mountinfo`).
#[derive(Debug)]
struct Mount {
    /// The hierarchy's device number, the same for all its mounts.
    device: String,
    /// The cgroup at the root of the mount.
    root: PathBuf,
    point: PathBuf,
    unified: bool,
}

/// The directories of the cgroup `path`, which is relative: one in each v1 hierarchy to join,
/// with cpuset if it is wanted, or else the one of v2.
pub(super) fn directories(mountinfo: &str, path: &Path, cpuset: bool) -> Vec<PathBuf> {
    let mounts = mounts(mountinfo, cpuset);
    let unified = mounts.iter().all(|mount| mount.unified);
    let mut devices: Vec<&str> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.unified == unified) {
        // cpu and cpuacct are one hierarchy on most hosts.
        if !devices.contains(&mount.device.as_str()) {
            devices.push(&mount.device);
        }
    }
    let of_device = |device| {
        let of_it = mounts.iter().filter(move |mount| mount.device == device);
        place(of_it, path)
    };
    devices.into_iter().filter_map(of_device).collect()
}

/// The directory of a cgroup in a hierarchy with these mounts. If it is in none of them, as in
/// a container that sees only a part of the hierarchy, the first mount counts as the whole
/// hierarchy, as with runc.
fn place<'a>(mounts: impl Iterator<Item = &'a Mount> + Clone, path: &Path) -> Option<PathBuf> {
    let absolute = Path::new("/").join(path);
    let inside = mounts.clone().filter_map(|mount| {
        let below = absolute.strip_prefix(&mount.root).ok()?;
        let place = mount.point.join(below).components().collect();
        Some((mount.root.components().count(), place))
    });
    // The mount of the whole hierarchy is preferred: a partial mount may have other users.
    let widest = inside.min_by_key(|(depth, _)| *depth);
    let first = || mounts.clone().next().map(|mount| mount.point.join(path));
    widest.map(|(_, place)| place).or_else(first)
}

fn mounts(mountinfo: &str, cpuset: bool) -> Vec<Mount> {
    let parse = |line: &str| {
        // "ID parent major:minor root mount-point … - type source super-options"
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next()?, tail.nth(1)?);
        let accounts = |name: &str| V1_CONTROLLERS.contains(&name) || (cpuset && name == "cpuset");
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" if options.split(',').any(accounts) => false,
            _ => return None,
        };
        let mut head = head.split(' ').skip(2);
        Some(Mount {
            device: head.next()?.to_owned(),
            root: unescape(head.next()?.as_bytes()),
            point: unescape(head.next()?.as_bytes()),
            unified,
        })
    };
    mountinfo.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str, path: &str) -> Vec<String> {
        let dirs = directories(mountinfo, Path::new(path), false);
        dirs.iter().map(|dir| dir.display().to_string()).collect()
    }

    const MEMORY: &str = "1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn v1_is_preferred_to_the_empty_v2_of_a_hybrid_host() {
        let systemd = "2 0 0:2 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n";
        let unified = "3 0 0:3 / /cg/unified rw - cgroup2 cgroup2 rw";
        let hybrid = format!("{MEMORY}{systemd}{unified}");
        assert_eq!(found(&hybrid, "a"), ["/cg/memory/a"]);
        assert_eq!(found(unified, "a"), ["/cg/unified/a"]);
        assert!(found("", "a").is_empty());
    }

    #[test]
    fn controllers_of_one_hierarchy_are_joined_once() {
        let joint = "1 0 0:1 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                     2 0 0:2 / /cg/cpuset rw - cgroup cgroup rw,cpuset\n";
        assert_eq!(found(joint, "a"), ["/cg/cpu,cpuacct/a"]);
        let dirs = directories(joint, Path::new("a"), true);
        assert_eq!(
            dirs,
            ["/cg/cpu,cpuacct/a", "/cg/cpuset/a"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_second_mount_of_a_part_is_not_taken_for_the_whole() {
        let part = "9 0 0:1 /docker/x /srv/x rw - cgroup cgroup rw,memory\n";
        for both in [format!("{MEMORY}{part}"), format!("{part}{MEMORY}")] {
            assert_eq!(found(&both, "pods/a"), ["/cg/memory/pods/a"]);
            // The cgroup is in the partial mount, too.
            assert_eq!(found(&both, "docker/x/a"), ["/cg/memory/docker/x/a"]);
        }
        let v2 = "4 0 0:3 /a/b /srv/b rw - cgroup2 cgroup2 rw\n\
                  3 0 0:3 / /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(v2, "a/b/c"), ["/cg/a/b/c"]);
    }

    #[test]
    fn where_parts_alone_are_mounted_the_one_that_has_the_cgroup_counts() {
        let parts = "8 0 0:1 /pods /srv/pods rw - cgroup cgroup rw,memory\n\
                     9 0 0:1 /pods/x /srv/x rw - cgroup cgroup rw,memory\n";
        assert_eq!(found(parts, "pods/x/a"), ["/srv/pods/x/a"]);
        assert_eq!(found(parts, "pods"), ["/srv/pods"]);
        // In a container, its own part counts as the whole hierarchy.
        let own = "8 0 0:1 /docker/me /cg/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(found(own, "pods/a"), ["/cg/memory/pods/a"]);
        // A mount from outside of a cgroup namespace.
        let outer = "8 0 0:1 /.. /outer rw - cgroup cgroup rw,memory\n";
        assert_eq!(found(&format!("{outer}{MEMORY}"), "a"), ["/cg/memory/a"]);
    }

    #[test]
    fn mount_points_lose_their_escapes() {
        let line = r"1 0 0:1 / /my\040cg rw - cgroup cgroup rw,memory";
        assert_eq!(found(line, "a"), ["/my cg/a"]);
    }
}
