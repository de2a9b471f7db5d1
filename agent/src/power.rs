//! The end of the VM.

use nix::sys::reboot::{RebootMode, reboot};

/// Ends the VM; does not return in a guest.
///
/// By a reboot, which always ends it: the kernel command line has `reboot=t`
/// (triple fault), and no VMM of ours resets. A power-off would not: a machine
/// may have ACPI tables without a power-off in them (QEMU's microvm), and the
/// kernel then halts for ever, which no VMM sees.
pub fn off() -> ! {
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // Not root, or not PID 1 of a VM.
    std::process::exit(1)
}
