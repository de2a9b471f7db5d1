//! Directories of state, closed to other users of the host: containers' files are below, with
//! modes that are meant for the container, and set-user-id programs.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Context, Error, Result, StateDirError, StateDirProblem};
use crate::state_dir;

/// The mode of a directory of state: access for the owner alone.
pub(crate) const MODE: u32 = 0o700;
/// The mode bits of other users.
const OTHERS: u32 = 0o077;
/// The mode bits with which others can make files; such a directory is not used for state.
const OTHERS_WRITE: u32 = 0o022;

/// The entries of a pod's directory (`paths`). A crash may leave only some of them.
const PARTS: [&str; 6] = [
    "lock",
    "owner",
    "config.json",
    "state.json",
    "containers",
    "shared",
];

/// The top entries of `root` and `data_root`, beside namespaces.
const OURS: [&str; 6] = [".vm", ".owners", "pods", "images", "volumes", "events"];

/// As [`make`], for a directory that the configuration names. It may be one that others need,
/// such as `/var/lib`: it is closed to them only if it is empty, or holds only state.
///
/// # Errors
/// As [`make`]; [`Error::StateDir`] for one with other things in it.
pub(crate) fn make_root(dir: &Path) -> Result<()> {
    state_dir::make_dirs(dir, MODE)?;
    let mode = fs::metadata(dir).on("look at", dir)?.mode();
    if mode & OTHERS != 0 && !is_ours(dir)? {
        return Err(refusal(dir, StateDirProblem::OtherFiles));
    }
    make(dir)
}

fn refusal(dir: &Path, problem: StateDirProblem) -> Error {
    let dir = dir.to_owned();
    StateDirError { dir, problem }.into()
}

fn is_ours(dir: &Path) -> Result<bool> {
    let names = names_in(dir).on("read", dir)?;
    // Without a directory of VMs, an empty directory may belong to another program.
    let has_vms = names.iter().any(|name| name == OURS[0] || name == OURS[1]);
    Ok(names.iter().all(|name| {
        OURS.iter().any(|ours| name == ours)
            || is_staging(name)
            || is_namespace(&dir.join(name), has_vms)
    }))
}

/// Whether a directory holds pods, damaged ones included, and nothing else.
fn is_namespace(dir: &Path, may_be_empty: bool) -> bool {
    let is_pod = |name: &OsString| {
        let pod = dir.join(name);
        is_staging(name)
            || PARTS.iter().any(|part| pod.join(part).exists())
            || may_be_empty && names_in(&pod).is_ok_and(|names| names.is_empty())
    };
    names_in(dir).is_ok_and(|pods| (may_be_empty || !pods.is_empty()) && pods.iter().all(is_pod))
}

fn is_staging(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".new-") || name.starts_with(b".gone-")
}

fn names_in(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

/// Makes a directory of state and its missing parents. An existing directory that is open to
/// others is closed: earlier builds left it open.
///
/// # Errors
/// [`Error::StateDir`] for a directory that cannot be used for state: of another user, writable
/// by others, or of the first level, such as `/run`; [`Error::Io`].
pub(crate) fn make(dir: &Path) -> Result<()> {
    state_dir::make_dirs(dir, MODE)?;
    let mut options = fs::File::options();
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let held = options.read(true).custom_flags(flags).open(dir);
    let held = held.on("open", dir)?;
    let found = held.metadata().on("look at", dir)?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        let uid = found.uid();
        return Err(refusal(dir, StateDirProblem::Owner { uid }));
    }
    if found.mode() & OTHERS == 0 {
        return Ok(());
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(refusal(dir, StateDirProblem::Writable));
    }
    let path = fs::canonicalize(dir).on("resolve", dir)?;
    if path.components().count() <= 2 {
        return Err(refusal(dir, StateDirProblem::Shared));
    }
    let private = Permissions::from_mode(MODE);
    held.set_permissions(private).on("close to others", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(made: Result<()>) -> StateDirProblem {
        match made.unwrap_err() {
            Error::StateDir(error) => error.problem,
            other => panic!("{other:?}"),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_one_and_those_above_it_are_closed() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");

        make(&dir).unwrap();

        assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));
    }

    #[test]
    fn one_of_an_earlier_build_is_closed() {
        let place = tempfile::tempdir().unwrap();
        for wide in [0o711, 0o755, 0o750] {
            let dir = place.path().join(format!("{wide:o}"));
            fs::create_dir(&dir).unwrap();
            set_mode(&dir, wide);

            make(&dir).unwrap();

            assert_eq!(mode(&dir), 0o700, "{wide:o}");
        }
    }

    #[test]
    fn a_directory_with_things_of_others_is_not_closed() {
        let place = tempfile::tempdir().unwrap();
        let with = |name: &str, entries: &[&str]| {
            let dir = place.path().join(name);
            for entry in entries {
                fs::create_dir_all(dir.join(entry)).unwrap();
            }
            fs::create_dir_all(&dir).unwrap();
            set_mode(&dir, 0o755);
            dir
        };
        for ours in [
            with("empty", &[]),
            with("root", &["k8s.io", ".vm"]),
            with("data", &["pods", "images", ".gone-1-2-x"]),
            with("pods", &["k8s.io/pod/containers", "k8s.io/.gone-1-2-x"]),
            with("damaged", &["k8s.io/pod", ".vm"]),
        ] {
            make_root(&ours).unwrap();
            assert_eq!(mode(&ours), 0o700, "{}", ours.display());
        }
        for theirs in [
            with("lib", &["dpkg"]),
            with("srv", &["images", "www/x"]),
            // Earlier builds accepted such a directory.
            with("var", &["k8s.io/pod/containers", ".vm", "dpkg/info/x"]),
        ] {
            assert_eq!(problem(make_root(&theirs)), StateDirProblem::OtherFiles);
            assert_eq!(mode(&theirs), 0o755, "{}", theirs.display());
            set_mode(&theirs, 0o700);
            make_root(&theirs).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_ours_is_refused_and_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        set_mode(place.path(), 0o1777);
        assert_eq!(problem(make(place.path())), StateDirProblem::Writable);
        assert_eq!(mode(place.path()), 0o1777);

        let before = mode(Path::new("/usr"));
        assert_eq!(problem(make(Path::new("/usr"))), StateDirProblem::Shared);
        assert_eq!(mode(Path::new("/usr")), before);

        if nix::unistd::geteuid().is_root() {
            let dir = place.path().join("theirs");
            fs::create_dir(&dir).unwrap();
            std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
            assert_eq!(problem(make(&dir)), StateDirProblem::Owner { uid: 65534 });
        }
    }
}
