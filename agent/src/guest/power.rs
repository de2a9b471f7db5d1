//! The end of the VM.

use std::fs;

use nix::sys::reboot::{RebootMode, reboot};

/// Ends the VM; does not return in a guest.
pub fn off() -> ! {
    nix::unistd::sync();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let _ = reboot(way(&cmdline));
    // The process is not root, or not PID 1 of a VM.
    std::process::exit(1)
}

/// A reboot always ends the VM: the kernel command line has `reboot=t` (triple fault), and no
/// VMM of rust-kata resets. A power-off does not: a machine's ACPI tables may not support it
/// (QEMU's microvm); then the kernel halts forever, and the VMM does not notice. A VMM that
/// supports the power-off says so on the kernel command line, and recognises an orderly end by
/// it.
fn way(cmdline: &str) -> RebootMode {
    let mut words = cmdline.split_ascii_whitespace();
    match words.any(|word| word == protos::POWER_OFF_WORD) {
        true => RebootMode::RB_POWER_OFF,
        false => RebootMode::RB_AUTOBOOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_goes_off_only_where_it_can() {
        let able = "console=ttyS0 rust_kata.poweroff=1 quiet\n";
        assert_eq!(way(able), RebootMode::RB_POWER_OFF);
        for other in ["", "reboot=t", "rust_kata.poweroff=0", "rust_kata.poweroff"] {
            assert_eq!(way(other), RebootMode::RB_AUTOBOOT, "{other}");
        }
    }
}
