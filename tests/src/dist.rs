//! The paths of the binaries under test, and the choice of the runtime and hypervisor under
//! test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use test_support::Reason;

/// The reference runtime.
pub const RUNC: &str = "io.containerd.runc.v2";

/// rust-kata's name in containerd.
pub const RUST_KATA: &str = "io.containerd.rust-kata.v2";

/// The file name of rust-kata's shim.
pub const SHIM: &str = "containerd-shim-rust-kata-v2";

/// The file name of the command line.
pub const CLI: &str = "rust-kata";

/// The file name of the VMM.
pub const VMM: &str = "rust-kata-vmm";

/// The file name of QEMU.
pub const QEMU: &str = "qemu-system-x86_64";

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}

/// The built tree under test: `RUST_KATA_DIST`, or `target/dist`.
pub fn dist() -> PathBuf {
    std::env::var_os("RUST_KATA_DIST")
        .map_or_else(|| workspace().join("target/dist"), PathBuf::from)
}

/// A binary of the tree under test.
pub fn binary(name: &str) -> PathBuf {
    dist().join("bin").join(name)
}

/// The runtime under test: `RUST_KATA_TEST_RUNTIME`, or rust-kata. With runc, the harness and
/// the tests check themselves.
pub fn subject() -> String {
    std::env::var("RUST_KATA_TEST_RUNTIME").unwrap_or_else(|_| RUST_KATA.to_owned())
}

/// The hypervisor under test: `RUST_KATA_TEST_HYPERVISOR`, or QEMU, which works everywhere.
pub fn hypervisor() -> String {
    std::env::var("RUST_KATA_TEST_HYPERVISOR").unwrap_or_else(|_| "qemu".to_owned())
}

/// The program whose process runs the vCPUs of a pod.
pub fn machine() -> &'static str {
    if hypervisor() == "qemu" { QEMU } else { VMM }
}

/// Checks that pods run in QEMU.
///
/// # Errors
/// [`Reason::Hypervisor`].
pub fn machine_is_qemu() -> Result<(), Reason> {
    match machine() == QEMU {
        true => Ok(()),
        false => Err(Reason::Hypervisor("qemu")),
    }
}

/// Checks that pods run in `rust-kata-vmm`, on KVM.
///
/// # Errors
/// [`Reason::Hypervisor`].
pub fn machine_is_ours() -> Result<(), Reason> {
    match machine() == QEMU {
        true => Err(Reason::Hypervisor("kvm")),
        false => Ok(()),
    }
}

/// Checks that the runtime under test is rust-kata.
///
/// # Errors
/// [`Reason::Runtime`].
pub fn subject_is_ours() -> Result<(), Reason> {
    let found = subject();
    match found == RUST_KATA {
        true => Ok(()),
        false => Err(Reason::Runtime {
            wanted: RUST_KATA,
            found,
        }),
    }
}

/// `seconds`, multiplied by `RUST_KATA_TEST_PATIENCE` (default 1) for machines with other load.
pub fn patience(seconds: f64) -> Duration {
    let factor = std::env::var("RUST_KATA_TEST_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0_f64);
    Duration::from_secs_f64(seconds * factor)
}
