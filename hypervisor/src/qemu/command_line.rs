//! QEMU's command line.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::Path;

use super::Accelerator;
use super::layout::FIRMWARE;
use crate::spec::ValidSpec;

/// Descriptors that QEMU inherits, all connected sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sockets {
    /// Machine protocol.
    pub qmp: RawFd,
    /// Serial console.
    pub console: RawFd,
    /// vhost-user of the vsock device.
    pub vsock: RawFd,
    /// vhost-user of the file system device.
    pub fs: RawFd,
}

/// The arguments for a machine that waits for `cont`.
pub(super) fn build(
    spec: &ValidSpec,
    accelerator: Accelerator,
    tsc_khz: Option<u64>,
    sockets: Sockets,
) -> Vec<OsString> {
    let mut line = Line::default();
    line.option("-name", format!("{},debug-threads=on", spec.id));
    line.flag("-S");
    line.flag("-no-user-config");
    line.flag("-nodefaults");
    line.flag("-no-reboot");
    line.option("-display", "none");
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );

    line.option("-machine", "microvm,acpi=on,memory-backend=ram");
    // Never QEMU's default firmware, whose ACPI tables and initrd overlap.
    line.option("-bios", FIRMWARE);
    match accelerator {
        Accelerator::Kvm => {
            line.option("-accel", "kvm");
            line.option("-cpu", "host");
        }
        Accelerator::Tcg => {
            // Translated code is cached; the limit protects the host from a guest with much
            // code.
            line.option("-accel", "tcg,thread=multi,tb-size=256");
            // "Fast" string moves are emulated byte by byte. Without these features the guest
            // moves words, which halves the cost of stdio.
            line.option("-cpu", "max,-erms,-fsrm");
        }
    }
    line.option("-smp", spec.vcpus.to_string());
    line.option("-m", format!("{}M", spec.memory_mib));
    // Shared with rust-kata-vmm, which accesses it for the devices.
    line.option(
        "-object",
        format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            spec.memory_mib
        ),
    );

    line.path("-kernel", &spec.kernel);
    line.path("-initrd", &spec.initrd);
    line.option("-append", kernel_command_line(spec, tsc_khz));

    line.socket("qmp", sockets.qmp);
    line.option("-qmp", "chardev:qmp");
    line.socket("console", sockets.console);
    line.option("-serial", "chardev:console");

    // virtio 1.0 registers; the legacy ones are QEMU's default on virtio-mmio.
    line.option("-global", "virtio-mmio.force-legacy=false");
    line.socket("vsock", sockets.vsock);
    line.option("-device", "vhost-user-vsock-device,chardev=vsock");
    line.socket("fs", sockets.fs);
    line.option(
        "-device",
        format!("vhost-user-fs-device,chardev=fs,tag={}", spec.share.tag),
    );
    line.option("-object", "rng-builtin,id=rng");
    line.option("-device", "virtio-rng-device,rng=rng");
    line.args
}

fn kernel_command_line(spec: &ValidSpec, tsc_khz: Option<u64>) -> String {
    // A reboot is a triple fault, and that ends QEMU (-no-reboot).
    let mut words = vec!["reboot=t".to_owned()];
    if let Some(khz) = tsc_khz {
        words.push(format!("tsc_early_khz={khz}"));
        words.push("tsc=reliable".into());
        words.push("no_timer_check".into());
    }
    spec.kernel_command_line(words)
}

#[derive(Default)]
struct Line {
    args: Vec<OsString>,
}

impl Line {
    fn flag(&mut self, name: &str) {
        self.args.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.flag(name);
        self.args.push(value.as_ref().into());
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.option(name, path);
    }

    fn socket(&mut self, id: &str, fd: RawFd) {
        self.option("-chardev", format!("socket,id={id},fd={fd}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture;

    const SOCKETS: Sockets = Sockets {
        qmp: 10,
        console: 11,
        vsock: 12,
        fs: 13,
    };

    fn line(accelerator: Accelerator, change: impl FnOnce(&mut crate::VmSpec)) -> Vec<String> {
        let (_dir, mut spec) = fixture();
        change(&mut spec);
        let tsc_khz = (accelerator == Accelerator::Tcg).then_some(2_600_000);
        build(&spec.validate().unwrap(), accelerator, tsc_khz, SOCKETS)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    fn values<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = line.iter().zip(line.iter().skip(1));
        pairs
            .filter(|(name, _)| *name == option)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    #[test]
    fn machine_waits_and_has_nothing_by_default() {
        let line = line(Accelerator::Tcg, |_| {});

        for flag in ["-S", "-nodefaults", "-no-user-config", "-no-reboot"] {
            assert!(line.iter().any(|arg| arg == flag), "{flag}");
        }
        assert!(values(&line, "-sandbox")[0].starts_with("on,"));
        assert_eq!(values(&line, "-bios"), ["qboot.rom"]);
    }

    #[test]
    fn accelerator_decides_on_cpu_and_clock() {
        let tcg = line(Accelerator::Tcg, |_| {});
        let kvm = line(Accelerator::Kvm, |_| {});

        assert!(values(&tcg, "-accel")[0].starts_with("tcg,thread=multi"));
        assert!(values(&tcg, "-append")[0].contains("tsc_early_khz=2600000"));
        assert_eq!(values(&kvm, "-accel"), ["kvm"]);
        assert_eq!(values(&kvm, "-cpu"), ["host"]);
        assert!(!values(&kvm, "-append")[0].contains("tsc_early_khz"));
    }

    #[test]
    fn memory_is_shared_and_of_the_wanted_size() {
        let line = line(Accelerator::Tcg, |spec| {
            spec.memory_mib = 320;
            (spec.vcpus, spec.max_vcpus) = (2, 2);
        });

        assert_eq!(values(&line, "-m"), ["320M"]);
        assert_eq!(values(&line, "-smp"), ["2"]);
        assert!(values(&line, "-machine")[0].contains("memory-backend=ram"));
        let objects = values(&line, "-object");
        assert!(objects.contains(&"memory-backend-memfd,id=ram,size=320M,share=on"));
    }

    #[test]
    fn devices_use_the_inherited_sockets() {
        let line = line(Accelerator::Tcg, |_| {});

        let chardevs = [
            "socket,id=qmp,fd=10",
            "socket,id=console,fd=11",
            "socket,id=vsock,fd=12",
            "socket,id=fs,fd=13",
        ];
        assert_eq!(values(&line, "-chardev"), chardevs);
        let devices = values(&line, "-device");
        assert!(devices.contains(&"vhost-user-vsock-device,chardev=vsock"));
        assert!(devices.contains(&"vhost-user-fs-device,chardev=fs,tag=rust-kata"));
    }

    #[test]
    fn kernel_is_quiet_unless_debugging_and_gets_the_words() {
        let quiet = line(Accelerator::Tcg, |_| {});
        let debug = line(Accelerator::Tcg, |spec| spec.debug = true);

        let words = |line: &[String]| -> Vec<String> {
            let text = values(line, "-append")[0];
            text.split(' ').map(str::to_owned).collect()
        };
        assert!(words(&quiet).contains(&"quiet".into()));
        assert!(!words(&debug).contains(&"quiet".into()));
        assert_eq!(words(&quiet).last().unwrap(), "rust_kata.log=info");
        for word in ["panic=-1", "reboot=t", "console=ttyS0"] {
            assert!(words(&quiet).contains(&word.into()), "{word}");
        }
    }
}
