//! Reports tests that this machine cannot run: `require!` ends them with `ignored: TEST:
//! REASON` on stderr.
//!
//! `tests/support/ignored` counts these lines. With `RUST_KATA_TEST_STRICT` set, as in
//! `.ci/run`, only reasons that the caller cannot change are accepted
//! (`Reason::is_expected`); any other reason fails the test.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

/// The reason why a test is ignored.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The tests do not run as root.
    #[error("it needs root")]
    Root,
    /// KVM cannot be opened.
    #[error("it needs /dev/kvm: {0}")]
    Kvm(#[source] io::Error),
    /// There is no writable mount of cgroup v2.
    #[error("it needs cgroup v2")]
    CgroupV2,
    /// The kernel was built without a system call.
    #[error("it needs {0}")]
    SystemCall(&'static str),
    /// Pods run with another hypervisor than the test needs.
    #[error("it needs RUST_KATA_TEST_HYPERVISOR={0}")]
    Hypervisor(&'static str),
    /// The runtime under test is the reference.
    #[error("it tests what only {wanted} has, and RUST_KATA_TEST_RUNTIME={found}")]
    Runtime { wanted: &'static str, found: String },
    /// The test builds what it runs, and was not started by cargo.
    #[error("it needs cargo, which builds what it runs")]
    Cargo,
    /// The machine emulates KVM: the test would take too long and show nothing more.
    #[error("it needs no KVM and takes long where that is emulated")]
    Emulated,
}

impl Reason {
    /// Whether the machine or the selected hypervisor cannot run the test, independent of the
    /// caller. `kvm` says that VMs run on KVM, which must then be available.
    fn is_expected(&self, kvm: bool) -> bool {
        match self {
            Reason::Kvm(error) => {
                let absent = [Errno::ENOENT, Errno::ENXIO, Errno::ENODEV];
                let code = error.raw_os_error().map(Errno::from_raw);
                !kvm && code.is_some_and(|code| absent.contains(&code))
            }
            // The KVM test host has the tests alone.
            Reason::Cargo => kvm,
            Reason::CgroupV2 | Reason::SystemCall(_) | Reason::Hypervisor(_) | Reason::Emulated => {
                true
            }
            Reason::Root | Reason::Runtime { .. } => false,
        }
    }
}

/// Returns what a test needs. Without it, writes `ignored: TEST: REASON` to stderr and ends the
/// test, or a helper of a test with the default of its type.
#[macro_export]
macro_rules! require {
    ($needed:expr) => {
        match $needed {
            Ok(value) => value,
            Err(reason) => {
                fn here() {}
                $crate::ignore(&reason, ::std::any::type_name_of_val(&here));
                return ::std::default::Default::default();
            }
        }
    };
}

/// Checks that the tests run as root.
///
/// # Errors
/// [`Reason::Root`].
pub fn root() -> Result<(), Reason> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Reason::Root),
    }
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// [`Reason::Kvm`].
pub fn kvm() -> Result<OwnedFd, Reason> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    device.map(Into::into).map_err(Reason::Kvm)
}

/// Reports a reason, for [`require!`]; `here` is a path within the calling function.
///
/// # Panics
/// If the reason is unexpected and `RUST_KATA_TEST_STRICT` is set.
pub fn ignore(reason: &Reason, here: &str) {
    let thread = std::thread::current();
    let function = here
        .trim_end_matches("::here")
        .trim_end_matches("::{{closure}}");
    let test = thread
        .name()
        .filter(|name| *name != "main")
        .unwrap_or(function);
    let kvm = std::env::var("RUST_KATA_TEST_HYPERVISOR").is_ok_and(|name| name == "kvm");
    let strict = std::env::var_os("RUST_KATA_TEST_STRICT").is_some_and(|value| value == "1");
    assert!(
        !strict || reason.is_expected(kvm),
        "RUST_KATA_TEST_STRICT=1 and {test} cannot run: {reason}"
    );
    // Written directly to stderr, since libtest hides the output of passing tests; in one
    // write, since tests run in parallel.
    let line = format!("ignored: {test}: {reason}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const AGAIN: &str = "RUST_KATA_TEST_AGAIN";

    /// A helper that ends with the default of its type.
    fn helper(needed: Result<u8, Reason>) -> Option<u8> {
        Some(require!(needed))
    }

    fn missing() -> Result<(), Reason> {
        Err(Reason::Root)
    }

    /// The other tests run it.
    #[test]
    fn needs_what_is_not_there() {
        assert_eq!(helper(Ok(7)), Some(7));
        if std::env::var_os(AGAIN).is_some() {
            assert_eq!(helper(Err(Reason::Emulated)), None);
            require!(missing());
            panic!("it went on");
        }
    }

    fn again(strict: &str) -> (bool, String) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::needs_what_is_not_there"])
            .env(AGAIN, "1")
            .env("RUST_KATA_TEST_STRICT", strict)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[test]
    fn an_ignored_test_passes_and_says_so_although_its_output_is_kept() {
        let (passed, said) = again("");
        assert!(passed && said.contains("1 passed"), "{said}");
        for reason in [Reason::Emulated, Reason::Root] {
            let line = format!("ignored: tests::needs_what_is_not_there: {reason}\n");
            assert!(said.contains(&line), "{said}");
        }
    }

    #[test]
    fn an_unexpected_reason_fails_where_it_is_strict() {
        let (passed, said) = again("1");
        assert!(!passed && said.contains("1 failed"), "{said}");
        assert!(said.contains("RUST_KATA_TEST_STRICT=1"), "{said}");
        assert!(!said.contains("it went on"), "{said}");
    }

    #[test]
    fn only_what_a_machine_cannot_change_is_expected() {
        let kvm = |code| Reason::Kvm(io::Error::from_raw_os_error(code as i32));
        let runtime = Reason::Runtime {
            wanted: "a",
            found: "b".into(),
        };
        let expected = [
            (kvm(Errno::ENOENT), true),
            (kvm(Errno::ENODEV), true),
            (kvm(Errno::ENXIO), true),
            (kvm(Errno::EACCES), false),
            (Reason::CgroupV2, true),
            (Reason::SystemCall("ioperm(2)"), true),
            (Reason::Hypervisor("qemu"), true),
            (Reason::Emulated, true),
            (Reason::Root, false),
            (runtime, false),
        ];
        for (reason, yes) in expected {
            assert_eq!(reason.is_expected(false), yes, "{reason}");
        }
        let absent = kvm(Errno::ENOENT);
        assert!(!absent.is_expected(true), "VMs are to run on KVM");
    }
}
