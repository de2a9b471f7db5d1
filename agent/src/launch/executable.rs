//! The lookup of a process's program, as in runc.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use crate::error::Kind;
use crate::launch::faults::Fault;

/// Finds the program in the same way as runc.
pub fn find(name: &str, environment: &[(String, String)]) -> Result<CString, Fault> {
    let not_found = || Fault {
        kind: Kind::NoSuchCommand,
        message: format!("exec: {name:?}: executable file not found in $PATH"),
    };
    let c = |path: &str| CString::new(path).map_err(|_| not_found());
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => c(name),
            Err(Errno::ENOENT) => Err(Fault {
                kind: Kind::NoSuchCommand,
                message: format!("exec: {name:?}: stat {name}: no such file or directory"),
            }),
            Err(e) if is_elsewhere(e) => Err(Fault {
                kind: Kind::NotExecutable,
                message: format!("exec: {name:?}: {}", text(e)),
            }),
            Err(e) => Err(unknown(name, e)),
        };
    }
    let path = environment.iter().find(|(key, _)| key == "PATH");
    for folder in path.map_or("", |(_, value)| value).split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{name}");
        match executable(Path::new(&candidate)) {
            Ok(()) => return c(&candidate),
            Err(e) if is_elsewhere(e) => {}
            Err(e) => return Err(unknown(&candidate, e)),
        }
    }
    Err(not_found())
}

/// The error if a program's existence cannot be determined.
fn unknown(path: &str, errno: Errno) -> Fault {
    Fault::internal(&format!("look at {path}"), text(errno))
}

/// Whether execvp(3) tries the next directory after this error. Other errors, such as EIO, end
/// the search.
fn is_elsewhere(errno: Errno) -> bool {
    use Errno::{EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
    matches!(
        errno,
        EACCES | EISDIR | ELOOP | ENAMETOOLONG | ENOENT | ENOTDIR
    )
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata =
        fs::metadata(path).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// The text of an error, as Go and therefore runc writes it.
pub fn text(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(path: &str) -> Vec<(String, String)> {
        vec![("PATH".into(), path.into())]
    }

    fn failure(name: &str, path: &str) -> String {
        find(name, &environment(path)).unwrap_err().message
    }

    #[test]
    fn programs_are_found_like_runc_finds_them() {
        let path = environment("/nowhere:/bin");
        assert!(find("sh", &path).is_ok_and(|found| found.as_bytes() == b"/bin/sh"));
        assert_eq!(
            failure("no-such", "/bin"),
            "exec: \"no-such\": executable file not found in $PATH"
        );
        assert_eq!(
            failure("/no/such", "/bin"),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(
            failure("/etc/passwd", "/bin"),
            "exec: \"/etc/passwd\": permission denied"
        );
        assert_eq!(failure("/etc", "/bin"), "exec: \"/etc\": is a directory");
        // The first two entries of the path are not directories.
        let beyond = find("sh", &environment("/etc/passwd:/no:/bin"));
        assert!(beyond.is_ok_and(|found| found.as_bytes() == b"/bin/sh"));
        // These errors do not mean that the program does not exist.
        for errno in [Errno::EIO, Errno::ENOTCONN, Errno::ESTALE] {
            assert!(!is_elsewhere(errno));
        }
        use Errno::{EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
        for errno in [EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR] {
            assert!(is_elsewhere(errno));
        }
    }

    #[test]
    fn each_failure_of_a_lookup_has_its_kind() {
        let path = environment("/nowhere:/bin");
        let kind = |name: &str| find(name, &path).unwrap_err().kind;
        assert_eq!(kind("no-such"), Kind::NoSuchCommand);
        assert_eq!(kind("/no/such"), Kind::NoSuchCommand);
        assert_eq!(kind("a\0b"), Kind::Internal);
        for there in ["/etc/passwd", "/etc", "/etc/passwd/x"] {
            assert_eq!(kind(there), Kind::NotExecutable, "{there}");
        }
        assert_eq!(find("sh", &[]).unwrap_err().kind, Kind::NoSuchCommand);
    }

    #[test]
    fn an_empty_part_of_the_path_is_the_working_directory() {
        let found = find("src/main.rs/..", &environment("")).unwrap_err();
        assert_eq!(found.kind, Kind::NotExecutable);
        let here = std::env::current_dir().unwrap();
        let name = format!("test-of-path-{}", std::process::id());
        let program = here.join(&name);
        fs::write(&program, "").unwrap();
        let found = find(&name, &environment("/nowhere:")).unwrap_err().kind;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, permissions).unwrap();
        let executable = find(&name, &environment("/nowhere:"));
        fs::remove_file(&program).unwrap();
        assert_eq!(found, Kind::NoSuchCommand);
        assert_eq!(executable.unwrap().to_str().unwrap(), format!("./{name}"));
    }
}
