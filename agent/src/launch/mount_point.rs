//! Mount points below dangling links of the image. The agent makes the link's target inside the
//! root, as runc does; libcontainer refuses such a mount. libcontainer makes all other mount
//! points.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use oci_spec::runtime::{Mount, Spec};

/// The most links that are followed in a path, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Makes the mount points of a container that are dangling links.
///
/// # Errors
/// The kernel's error, with the mount point.
pub fn prepare(spec: &Spec) -> io::Result<()> {
    let Some(root) = spec.root() else {
        return Ok(());
    };
    let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(root.path(), how, Mode::empty())?;
    let mut covered = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let named = |e: io::Error| {
            let place = mount.destination().display();
            io::Error::new(e.kind(), format!("the mount point {place}: {e}"))
        };
        let place = follow(&root, mount.destination(), &covered).map_err(named)?;
        if place.dangling {
            make(&root, &place.path, is_file(mount)).map_err(named)?;
        }
        covered.push(place.path);
    }
    Ok(())
}

/// Whether the mount's source is a file.
fn is_file(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    let binds =
        mount.typ().as_deref() == Some("bind") || options.any(|o| o == "bind" || o == "rbind");
    let source = mount.source().as_deref().filter(|_| binds);
    source.is_some_and(|source| source.exists() && !source.is_dir())
}

/// The target of a path below a root.
#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    /// Relative to the root, without links.
    path: PathBuf,
    /// A link led to it, and it does not exist.
    dangling: bool,
}

/// Follows a path. No link in it leads out of `root`, and missing parts have no links. Paths
/// below the `covered` mounts are not followed, since other files will be there.
fn follow(root: &OwnedFd, destination: &Path, covered: &[PathBuf]) -> io::Result<MountPoint> {
    let mut rest: VecDeque<OsString> = parts(destination).collect();
    let mut path = PathBuf::new();
    let (mut links, mut missing) = (0, false);
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            path.pop();
            continue;
        }
        let next = path.join(part);
        if covered.contains(&next) && !rest.is_empty() {
            path = next;
            path.extend(rest);
            return Ok(MountPoint {
                path,
                dangling: false,
            });
        }
        match at(root, &next)? {
            There::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                if target.is_absolute() {
                    path.clear();
                }
                let before: Vec<OsString> = parts(&target).collect();
                for part in before.into_iter().rev() {
                    rest.push_front(part);
                }
            }
            There::Other => path = next,
            There::Nothing => {
                missing = true;
                path = next;
            }
        }
    }
    Ok(MountPoint {
        path,
        dangling: links > 0 && missing,
    })
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

enum There {
    Nothing,
    Link(PathBuf),
    Other,
}

/// The file at a path whose directories are not links.
fn at(root: &OwnedFd, path: &Path) -> io::Result<There> {
    let found = match below(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(There::Nothing),
        found => found?,
    };
    let kind = SFlag::from_bits_truncate(fstat(&found)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFLNK {
        return Ok(There::Other);
    }
    Ok(There::Link(readlinkat(&found, "")?.into()))
}

fn below(root: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(match flags.contains(OFlag::O_CREAT) {
            true => Mode::from_bits_truncate(0o644),
            false => Mode::empty(),
        })
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how)
}

/// Makes a directory or an empty file, and its parent directories.
fn make(root: &OwnedFd, path: &Path, file: bool) -> io::Result<()> {
    let (above, name) = match (file, path.parent(), path.file_name()) {
        (true, Some(above), Some(name)) => (above, Some(name)),
        _ => (path, None),
    };
    let mut done = PathBuf::new();
    for part in above {
        let dir = below(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        match mkdirat(
            &dir,
            OsStr::from_bytes(part.as_bytes()),
            Mode::from_bits_truncate(0o755),
        ) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        done.push(part);
    }
    if let Some(name) = name {
        let how = OFlag::O_CREAT | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        below(root, &above.join(name), how)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/var")).unwrap();
        let fd = open(
            &dir.path().join("root"),
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            Mode::empty(),
        );
        (dir, fd.unwrap())
    }

    #[test]
    fn what_a_link_to_nothing_leads_to_is_made_in_the_root() {
        let (dir, fd) = root();
        let at = |name: &str| dir.path().join("root").join(name);
        symlink("/run/deep", at("var/run")).unwrap();
        symlink("../../../../../up", at("up")).unwrap();
        symlink("var/run/conf", at("conf")).unwrap();
        for (place, file, made) in [
            ("/var/run/lock", false, "run/deep/lock"),
            ("/up", false, "up"),
            ("/conf", true, "run/deep/conf"),
        ] {
            let found = follow(&fd, Path::new(place), &[]);
            if place == "/up" {
                // The link leads to itself: the error is that of the kernel.
                assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::ELOOP));
                continue;
            }
            let found = found.unwrap();
            let dangling = MountPoint {
                path: made.into(),
                dangling: true,
            };
            assert_eq!(found, dangling);
            make(&fd, &found.path, file).unwrap();
            assert_eq!(at(made).is_file(), file);
            assert!(!follow(&fd, Path::new(place), &[]).unwrap().dangling);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_libcontainer_makes_or_another_mount_covers_is_left_alone() {
        let (dir, fd) = root();
        symlink("/none", dir.path().join("root/var/link")).unwrap();
        let dangling = |place: &str, covered: &[PathBuf]| {
            follow(&fd, Path::new(place), covered).unwrap().dangling
        };
        assert!(!dangling("/var/missing/dir", &[]));
        assert!(dangling("/var/link/x", &[]));
        assert!(!dangling("/var/link/x", &["var".into()]));
    }

    fn spec(root: &Path, mounts: serde_json::Value) -> Spec {
        let json = serde_json::json!({
            "ociVersion": "1.0.2", "root": { "path": root }, "mounts": mounts,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_mount_gets_what_its_source_is() {
        let (dir, _fd) = root();
        let root = dir.path().join("root");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for name in ["file", "folder", "proc", "under"] {
            symlink(format!("/made/{name}"), root.join(name)).unwrap();
        }
        let spec = spec(
            &root,
            serde_json::json!([
                { "destination": "/file", "type": "bind", "source": file },
                { "destination": "/folder", "type": "bind", "source": dir.path() },
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/plain", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/proc/1/under", "type": "tmpfs", "source": "tmpfs" },
            ]),
        );

        prepare(&spec).unwrap();

        assert!(root.join("made/file").is_file());
        assert!(root.join("made/folder").is_dir() && root.join("made/proc").is_dir());
        // libcontainer makes these, below the mount of the other.
        assert!(!root.join("plain").exists());
        assert_eq!(fs::read_dir(root.join("made/proc")).unwrap().count(), 0);
    }

    #[test]
    fn a_mount_point_that_cannot_be_made_is_named() {
        let (dir, _fd) = root();
        let root = dir.path().join("root");
        symlink("again", root.join("again")).unwrap();
        let mounts = serde_json::json!([{ "destination": "/again", "type": "tmpfs" }]);
        let problem = prepare(&spec(&root, mounts)).unwrap_err().to_string();
        assert!(problem.starts_with("the mount point /again: "), "{problem}");
        let nothing = serde_json::json!([]);
        let no_root = prepare(&spec(&dir.path().join("no"), nothing.clone())).unwrap_err();
        assert_eq!(no_root.raw_os_error(), Some(libc::ENOENT));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let no_folder = prepare(&spec(&file, nothing)).unwrap_err();
        assert_eq!(no_folder.raw_os_error(), Some(libc::ENOTDIR));
        let mut rootless = Spec::default();
        rootless.set_root(None);
        prepare(&rootless).unwrap();
    }

    #[test]
    fn only_a_bind_mount_of_a_file_is_one_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let missing = dir.path().join("missing");
        for (typ, options, source, expected) in [
            (Some("bind"), None, &file, true),
            (None, Some(["ro", "bind"]), &file, true),
            (Some("none"), Some(["rbind", "ro"]), &file, true),
            (Some("none"), Some(["ro", "nodev"]), &file, false),
            (Some("tmpfs"), None, &file, false),
            (Some("bind"), None, &dir.path().to_owned(), false),
            (Some("bind"), None, &missing, false),
        ] {
            let json = serde_json::json!({
                "destination": "/d", "type": typ, "source": source, "options": options,
            });
            let mount: Mount = serde_json::from_value(json).unwrap();
            assert_eq!(is_file(&mount), expected, "{mount:?}");
        }
    }

    #[test]
    fn as_many_links_are_followed_as_by_the_kernel() {
        let (dir, fd) = root();
        let at = |n: usize| dir.path().join(format!("root/{n}"));
        // The link n leads over n links to a file.
        fs::write(at(0), "").unwrap();
        for n in 1..=41 {
            symlink((n - 1).to_string(), at(n)).unwrap();
        }
        for n in [0, 1, 40] {
            let place = follow(&fd, Path::new(&n.to_string()), &[]).unwrap();
            let expected = MountPoint {
                path: "0".into(),
                dangling: false,
            };
            assert_eq!(place, expected, "{n}");
            fs::metadata(at(n)).unwrap();
        }
        let beyond = follow(&fd, Path::new("41"), &[]).unwrap_err();
        assert_eq!(beyond.raw_os_error(), Some(libc::ELOOP));
        assert_eq!(
            fs::metadata(at(41)).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        // A destination whose parts are missing, without a link.
        assert!(!follow(&fd, Path::new("none/at/all"), &[]).unwrap().dangling);
    }

    #[test]
    fn links_stay_in_the_root_and_above_it_is_the_root() {
        let (dir, fd) = root();
        let at = |name: &str| dir.path().join("root").join(name);
        fs::create_dir(at("var/lib")).unwrap();
        symlink("../../../outside", at("var/lib/up")).unwrap();
        symlink("/var/./lib/../other", at("absolute")).unwrap();
        for (place, path) in [
            ("/var/lib/up/x", "outside/x"),
            ("/absolute", "var/other"),
            ("var//lib/./../plain", "var/plain"),
            ("/", ""),
        ] {
            assert_eq!(
                follow(&fd, Path::new(place), &[]).unwrap().path,
                Path::new(path)
            );
        }
        let covered = [PathBuf::from("var/lib")];
        let at_a_mount = follow(&fd, Path::new("/var/lib"), &covered).unwrap();
        assert_eq!(
            (at_a_mount.path.as_path(), at_a_mount.dangling),
            (Path::new("var/lib"), false)
        );
        let below = follow(&fd, Path::new("/var/lib/up/x"), &covered).unwrap();
        assert_eq!(
            (below.path.as_path(), below.dangling),
            (Path::new("var/lib/up/x"), false)
        );
    }

    #[test]
    fn what_is_made_is_roots_and_nothing_that_is_there_changes() {
        use std::os::unix::fs::PermissionsExt;

        let (dir, fd) = root();
        let at = |name: &str| dir.path().join("root").join(name);
        fs::write(at("var/there"), "kept").unwrap();
        make(&fd, Path::new("var/there"), true).unwrap();
        assert_eq!(fs::read_to_string(at("var/there")).unwrap(), "kept");
        make(&fd, Path::new("a/b/file"), true).unwrap();
        make(&fd, Path::new("a/c"), false).unwrap();
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode("a/b/file"), 0o100_644);
        assert_eq!([mode("a"), mode("a/b"), mode("a/c")], [0o040_755; 3]);
        let below_a_file = make(&fd, Path::new("var/there/x"), false).unwrap_err();
        assert_eq!(below_a_file.raw_os_error(), Some(libc::ENOTDIR));
        // A FIFO is not waited for, and a link in the place of the file is not followed.
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        make(&fd, Path::new("fifo"), true).unwrap();
        symlink("/var/target", at("link")).unwrap();
        let link = make(&fd, Path::new("link"), true).unwrap_err();
        assert_eq!(link.raw_os_error(), Some(libc::ELOOP));
        assert!(!at("var/target").exists());
    }
}
