//! Bare boots of one kernel and one initrd: in rust-kata-vmm with a pod's devices, and in
//! QEMU's microvm with only a console.
//!
//! The measured time is from the start of the VMM's process until the init's word is on the
//! console (see [`harness::initrd`]).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::console;
use harness::dist::{QEMU, VMM, binary, dist, patience};
use harness::initrd::{WORD, arguments, with_init};
use harness::run::{Input, Running};
use hypervisor::{HypervisorKind, VmSpec, select};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

const MEMORY_MIB: u32 = 256;

/// Kernel options that skip the search for devices which a VM does not have; the same for both.
const WORDS: [&str; 4] = ["reboot=t", "no_timer_check", "tsc=reliable", "pci=off"];

/// A kernel and an initrd that can be booted repeatedly.
pub struct Boots {
    runtime: Runtime,
    kernel: PathBuf,
    initrd: NamedTempFile,
}

impl Boots {
    /// Uses the kernel and initrd of the built tree under test.
    pub fn new() -> io::Result<Self> {
        let share = dist().join("share/rust-kata");
        Ok(Self {
            runtime: Runtime::new()?,
            kernel: share.join("vmlinux"),
            initrd: with_init(&share.join("initrd.img"))?,
        })
    }

    /// One boot in `rust-kata-vmm`.
    pub fn ours(&self) -> Duration {
        let folder = tempfile::tempdir().expect("/tmp is writable");
        let of = |name: &str| folder.path().join(name);
        for name in ["sockets", "share"] {
            fs::create_dir(of(name)).expect("ours");
        }
        let console = console::listen(&of("console.log"));
        let last = arguments();
        let words = WORDS.into_iter().chain(last.split(' '));
        let spec = VmSpec {
            id: "bench".into(),
            cmdline: words.map(str::to_owned).collect(),
            memory_mib: MEMORY_MIB,
            hypervisor: HypervisorKind::Kvm,
            vmm_binary: binary(VMM),
            qemu_binary: QEMU.into(),
            ..VmSpec::new(
                folder.path(),
                &self.kernel,
                self.initrd.path(),
                &of("share"),
            )
        };
        let spec = spec.validate().expect("a good specification");
        let choice = select(&spec).expect("KVM");

        let since = Instant::now();
        let vm = self.runtime.block_on(async {
            let vm = choice.vmm.create(spec).await.expect("a VM");
            vm.boot().await.expect("it boots");
            vm
        });
        console.expect(WORD, patience(60.0));
        let took = since.elapsed();

        self.runtime.block_on(vm.kill());
        took
    }

    /// One boot in QEMU's microvm, with the least possible devices.
    pub fn qemu(&self) -> Duration {
        let mut command = Command::new(QEMU);
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on");
        let words = format!(
            "console=ttyS0 panic=-1 cryptomgr.notests quiet {} {}",
            WORDS.join(" "),
            arguments()
        );
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-accel", "kvm", "-cpu", "host", "-smp", "1"])
            .args([
                "-M",
                "microvm,pit=off,pic=off,rtc=off,isa-serial=on,memory-backend=memory",
            ])
            .args(["-m", &MEMORY_MIB.to_string(), "-object", &memory])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.initrd.path())
            .args(["-append", &words]);

        let since = Instant::now();
        let machine = Running::spawn(command, Input::Null);
        machine.stdout.expect(WORD, patience(60.0));
        since.elapsed()
    }
}
