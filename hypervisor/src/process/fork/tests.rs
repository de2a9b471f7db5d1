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

/// Root of the host may enter a network namespace of the host, but not from within a user
/// namespace: a second attempt without one would succeed.
#[test]
fn only_a_host_without_user_namespaces_is_tried_without_one() {
    require!(root());
    let mut host = fork("/bin/true");
    host.netns = Some(File::open("/proc/self/ns/net").unwrap());
    let refused = host.start().err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    assert!(refused.to_string().contains("network namespace"));

    let mut host = fork("/bin/true");
    host.netns = Some(File::open("/proc/self/ns/net").unwrap());
    host.namespaces = false;
    host.start().unwrap().discard();
}

#[test]
fn a_start_ends_with_the_step_that_failed() {
    let report = |step: u8, errno: i32| {
        let mut bytes = vec![step];
        bytes.extend(errno.to_ne_bytes());
        outcome(&mut &bytes[..])
    };
    for (step, what) in (0..).zip(STEPS) {
        let failed = report(step, libc::EPERM).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::PermissionDenied);
        assert!(failed.to_string().starts_with(what), "{failed}");
    }
    let exec = report(EXEC, libc::ENOENT).unwrap_err();
    assert_eq!(exec.raw_os_error(), Some(libc::ENOENT));
    // execve(2) closes the pipe; nothing else is a start.
    outcome(&mut &b""[..]).unwrap();
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let broken = outcome(&mut Broken).unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_environment_is_this_process_own() {
    let passed = environment().unwrap();
    let own = std::fs::read("/proc/self/environ").unwrap();
    // Other tests change nothing in it.
    let path = own
        .split(|byte| *byte == 0)
        .find(|entry| entry.starts_with(b"PATH="))
        .unwrap();
    assert!(passed.iter().any(|entry| entry.to_bytes() == path));
    assert_eq!(passed.len(), std::env::vars_os().count());
    let zero = c_string("a\0b".into()).unwrap_err();
    assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
}
