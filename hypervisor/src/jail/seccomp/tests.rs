//! Each filter is tested in a child process, since a filter cannot be removed.

use std::io::{self, Read};
use std::os::fd::AsRawFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::super::kind::ThreadKind;
use super::*;

/// A system call with three arguments.
type Call = (libc::c_long, [libc::c_long; 3]);

/// The exit code of a child that survives the call.
const LIVES: i32 = 7;

/// Makes `call` in a child process with the filter of `kind`; returns the status of the process
/// and its standard error.
fn under_filter(kind: ThreadKind, call: Call) -> (WaitStatus, String) {
    let programs = programs(kind).unwrap();
    let (mut read, write) = io::pipe().unwrap();
    // SAFETY: the child makes system calls only.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: plain system calls; invalid arguments can only cause errors.
            unsafe {
                libc::dup2(write.as_raw_fd(), 2);
                violation::watch().ok();
                violation::set_kind(kind);
                for program in &programs {
                    if seccompiler::apply_filter(program).is_err() {
                        libc::_exit(1);
                    }
                }
                let (number, [one, two, three]) = call;
                let result = libc::syscall(number, one, two, three);
                // A call that would have made a process must fail.
                let made = number == libc::SYS_clone3 && result >= 0;
                libc::_exit(if made { 1 } else { LIVES })
            }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut said = String::new();
            read.read_to_string(&mut said).unwrap();
            (waitpid(child, None).unwrap(), said)
        }
    }
}

#[track_caller]
fn lives(kind: ThreadKind, call: Call) {
    let (end, said) = under_filter(kind, call);
    let code = matches!(end, WaitStatus::Exited(_, LIVES));
    assert!(code && said.is_empty(), "{kind}, {call:?}: {end:?}, {said}");
}

#[track_caller]
fn dies(kind: ThreadKind, call: Call) {
    let (end, said) = under_filter(kind, call);
    let code = matches!(end, WaitStatus::Exited(_, EXIT_CODE));
    let line = format!(
        "seccomp: a thread of kind {kind} called {} ({}) with ",
        names::name(call.0),
        call.0
    );
    assert!(
        code && said.starts_with(&line),
        "{kind}, {call:?}: {end:?}, {said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Calls that always fail at once, so that they are harmless if allowed.
const FORBIDDEN: &[Call] = &[
    (libc::SYS_execve, [0, 0, 0]),
    (libc::SYS_execveat, [-1, 0, 0]),
    (libc::SYS_fork, [0, 0, 0]),
    (libc::SYS_vfork, [0, 0, 0]),
    (libc::SYS_ptrace, [-1, -1, 0]),
    (libc::SYS_process_vm_readv, [-1, 0, 0]),
    (libc::SYS_process_vm_writev, [-1, 0, 0]),
    (libc::SYS_kill, [1, -1, 0]),
    (libc::SYS_mount, [0, 0, 0]),
    (libc::SYS_umount2, [0, 0, 0]),
    (libc::SYS_open_tree, [-1, 0, 0]),
    (libc::SYS_fsopen, [0, 0, 0]),
    (libc::SYS_pivot_root, [0, 0, 0]),
    (libc::SYS_chroot, [0, 0, 0]),
    (libc::SYS_setns, [-1, 0, 0]),
    (libc::SYS_unshare, [-1, 0, 0]),
    (libc::SYS_bpf, [-1, 0, 0]),
    (libc::SYS_perf_event_open, [0, 0, -1]),
    (libc::SYS_keyctl, [-1, 0, 0]),
    (libc::SYS_io_uring_setup, [0, 0, 0]),
    (libc::SYS_userfaultfd, [-1, 0, 0]),
    (libc::SYS_init_module, [0, 0, 0]),
    (libc::SYS_finit_module, [-1, 0, 0]),
    (libc::SYS_open_by_handle_at, [-1, 0, 0]),
    (libc::SYS_pidfd_getfd, [-1, -1, 0]),
    (libc::SYS_open, [0, 0, 0]),
    (libc::SYS_socketpair, [-1, 0, 0]),
    (libc::SYS_sendmmsg, [-1, 0, 0]),
    (-1, [0, 0, 0]),
];

#[test]
fn every_filter_kills_and_logs() {
    for kind in ThreadKind::ALL {
        for call in FORBIDDEN {
            assert!(
                rules(kind).all(|rule| rule.call != call.0),
                "{kind} has {call:?}"
            );
        }
        // One call shows that the filter of this kind is installed, and the list decides on the
        // others; a few more are worth a fork.
        for call in &FORBIDDEN[..4] {
            dies(kind, *call);
        }
        lives(kind, (libc::SYS_close, [-1, 0, 0]));
    }
    for call in FORBIDDEN {
        dies(ThreadKind::Spawner, *call);
    }
}

#[test]
fn every_rule_lets_pass_what_it_is_for() {
    // Calls that end or block the process, or change resources of the test.
    let special = [
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
        libc::SYS_clone,
        libc::SYS_clone3,
    ];
    for kind in ThreadKind::ALL {
        for rule in rules(kind).filter(|rule| !special.contains(&rule.call)) {
            // An invalid descriptor, pointer or number: each call fails or has no effect.
            let mut args = [-1; 3];
            for arg in rule.args {
                match arg {
                    Arg::Is(index, value) => args[usize::from(*index)] = *value as i64,
                    Arg::Without(index, bits) => args[usize::from(*index)] = !*bits as i64,
                }
            }
            lives(kind, (rule.call, args));
        }
    }
}

#[test]
fn arguments_are_looked_at() {
    let inet = [
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
        libc::AF_PACKET,
    ];
    for family in inet {
        dies(
            ThreadKind::Vsock,
            (libc::SYS_socket, [family.into(), -1, 0]),
        );
    }
    lives(
        ThreadKind::Vsock,
        (libc::SYS_socket, [libc::AF_UNIX.into(), -1, 0]),
    );
    // The kernel and the filter use 32 bits of a family.
    let odd = 1 << 32 | i64::from(libc::AF_INET);
    dies(ThreadKind::Vsock, (libc::SYS_socket, [odd, -1, 0]));
    let code = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    for kind in ThreadKind::ALL {
        dies(kind, (libc::SYS_mmap, [0, 4096, code]));
        dies(kind, (libc::SYS_mprotect, [0, 0, code]));
        dies(kind, (libc::SYS_ioctl, [-1, libc::TIOCSTI as i64, 0]));
    }
}

#[test]
fn threads_are_all_that_can_be_made() {
    let made_by = |flags: libc::c_int| (libc::SYS_clone, [flags.into(), 0, 0]);
    for flags in [
        0,
        libc::SIGCHLD,
        libc::CLONE_VM | libc::CLONE_VFORK,
        libc::CLONE_NEWUSER | libc::SIGCHLD,
        libc::CLONE_NEWNS,
        libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM | libc::CLONE_NEWUSER,
    ] {
        dies(ThreadKind::Spawner, made_by(flags));
    }
    // Filters cannot see its flags, so the call does not exist.
    let args = libc::clone_args {
        flags: libc::CLONE_NEWUSER as u64,
        exit_signal: libc::SIGCHLD as u64,
        // SAFETY: numbers only, for which zero means "none".
        ..unsafe { std::mem::zeroed() }
    };
    let pointer = (&raw const args).addr().cast_signed() as libc::c_long;
    let size = size_of_val(&args) as libc::c_long;
    lives(ThreadKind::Spawner, (libc::SYS_clone3, [pointer, size, 0]));
    dies(ThreadKind::Fs, (libc::SYS_clone3, [pointer, size, 0]));
}

#[test]
fn kinds_differ() {
    let everybody_but = |allowed: &[ThreadKind], call: libc::c_long| {
        for kind in ThreadKind::ALL {
            let has = rules(kind).any(|rule| rule.call == call);
            let may = allowed.contains(&kind) || kind == ThreadKind::Spawner;
            assert_eq!(has, may, "{} in {kind}", names::name(call));
        }
    };
    everybody_but(&[ThreadKind::Fs], libc::SYS_openat);
    everybody_but(&[], libc::SYS_capset);
    everybody_but(&[ThreadKind::Vsock], libc::SYS_connect);
    everybody_but(&[], libc::SYS_clone);
    everybody_but(&[], libc::SYS_clone3);
    everybody_but(&[], libc::SYS_seccomp);
}

#[test]
fn rare_rules_are_justified_and_none_is_listed_twice() {
    for kind in ThreadKind::ALL {
        let mut seen = std::collections::HashSet::new();
        for rule in rules(kind) {
            assert!(!rule.why.is_empty(), "{} has no reason", rule.name());
            let key = (rule.call, format!("{:?}", rule.args));
            let twice = !seen.insert(key) && kind != ThreadKind::Spawner;
            assert!(!twice, "{} twice in {kind}", rule.name());
        }
    }
}

/// Number by number (linux/sched.h, linux/fs.h, linux/falloc.h): a flag too many would let a
/// thread make more than a thread.
#[test]
fn conditions_are_these_numbers() {
    let conditions = |kind, call: libc::c_long| -> Vec<_> {
        let found = rules(kind).filter(|rule| rule.call == call);
        found.map(|rule| format!("{:?}", rule.args)).collect()
    };
    let is = |index: u8, value: u64| format!("{:?}", [Arg::Is(index, value)]);
    // VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID.
    let clone = conditions(ThreadKind::Spawner, libc::SYS_clone);
    assert_eq!(clone, [is(0, 0x3d_0f00)]);
    // KEEP_SIZE, PUNCH_HOLE.
    let punch = conditions(ThreadKind::Simple, libc::SYS_fallocate);
    assert_eq!(punch, [is(1, 3)]);
    let socket = conditions(ThreadKind::Vsock, libc::SYS_socket);
    assert_eq!(socket, [is(0, 1)]);
}

#[test]
fn rules_have_the_names_of_their_calls() {
    for kind in ThreadKind::ALL {
        for rule in rules(kind) {
            assert_eq!(rule.name(), names::name(rule.call));
        }
    }
    let mmap = rules(ThreadKind::Main).find(|rule| rule.call == libc::SYS_mmap);
    assert_eq!(mmap.unwrap().name(), "mmap");
}

#[test]
fn an_argument_fits_by_its_lower_half() {
    let is = Arg::Is(1, 7);
    assert!(is.fits(&[0, 7]) && is.fits(&[9, 1 << 32 | 7, 9]));
    assert!(!is.fits(&[7, 0]) && !is.fits(&[0, 8]) && !is.fits(&[7]));
    let without = Arg::Without(0, 6);
    assert!(without.fits(&[0]) && without.fits(&[1]) && without.fits(&[6 << 32 | 8]));
    assert!(
        !without.fits(&[2]) && !without.fits(&[4]) && !without.fits(&[7]) && !without.fits(&[])
    );
}

#[test]
fn the_exit_code_is_that_of_a_shell_for_the_signal() {
    // SIGSYS is 31 on x86-64.
    assert_eq!(EXIT_CODE, 159);
}
