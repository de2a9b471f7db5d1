//! What means that a host has no user namespaces.

use super::*;
use test_support::{require, root};

#[test]
fn only_what_clone_documents_means_that_there_are_no_user_namespaces() {
    for errno in 1..=133 {
        let found = |at| {
            let error = io::Error::from_raw_os_error(errno);
            no_user_namespaces(&Failure { error, at })
        };
        // EPERM, EINVAL, ENOSPC, EUSERS on x86-64 (asm-generic/errno.h).
        let documented = [1, 22, 28, 87].contains(&errno);
        assert_eq!(found(Stage::Clone), documented, "{errno}");
        assert_eq!(found(Stage::Ids), errno == 1, "{errno}");
        assert!(!found(Stage::Other), "{errno}");
    }
    let worded = io::Error::new(io::ErrorKind::PermissionDenied, "in words");
    assert!(!no_user_namespaces(&Failure {
        error: worded,
        at: Stage::Clone
    }));
}

fn fork(program: &str) -> Fork {
    let null = || File::options().read(true).write(true).open("/dev/null");
    Fork {
        program: c_string(program.into()).unwrap(),
        args: vec![c_string(program.into()).unwrap()],
        env: Vec::new(),
        stdin: null().unwrap().into(),
        output: null().unwrap().into(),
        fds: Vec::new(),
        netns: None,
        cgroup: None,
        namespaces: true,
    }
}

/// A program that the system refuses to execute fails with EACCES, and a namespace that is
/// none with EINVAL: as a host without user namespaces does, but later.
#[test]
fn a_child_that_fails_is_no_sign_of_a_host_without_user_namespaces() {
    require!(root());
    let mut nowhere = fork("/bin/true");
    nowhere.netns = Some(File::open("/proc/self/ns/uts").unwrap());
    for bad in [fork("/etc/passwd"), nowhere] {
        let failure = bad.attempt(NAMESPACES | libc::CLONE_NEWUSER).err().unwrap();
        assert_eq!(failure.at, Stage::Other, "{failure:?}");
        assert!(!no_user_namespaces(&failure), "{failure:?}");
    }
}
