//! A VM whose `rust-kata-vmm` is a stand-in.

use std::fs::File;

use super::*;
use crate::process::stand_in::{ENDS, PANIC, REFUSES, gone, said, script, spec};
use crate::spec::fixture;
use test_support::{require, root};

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn machine_is_what_the_spec_says() {
    let (_tmp, mut spec) = fixture();
    (spec.vcpus, spec.max_vcpus, spec.hotplug_mib) = (1, 4, 256);
    spec.hugepages = true;
    let spec = spec.validate().unwrap();

    let machine = machine(&spec);

    assert_eq!((machine.vcpus, machine.max_vcpus), (1, 4));
    let memory = MemoryConfig {
        mib: 128,
        hotplug_mib: 256,
        shared: false,
        hugepages: true,
    };
    assert_eq!(machine.memory, memory);
    let words: Vec<_> = machine.cmdline.split(' ').collect();
    let expected = [
        "console=ttyS0",
        "panic=-1",
        "cryptomgr.notests",
        "rcupdate.rcu_expedited=1",
        "rust_kata_boot_mark=3f0",
        "rust_kata.poweroff=1",
        "reboot=k",
        "pci=off",
        "maxcpus=1",
        "quiet",
        "rust_kata.log=info",
    ];
    assert_eq!(words, expected);
}

#[test]
fn devices_are_those_of_every_vm_and_memory_to_plug() {
    for (hotplug_mib, memory) in [(0, None), (128, Some(DeviceConfig::Mem))] {
        let (_tmp, mut spec) = fixture();
        spec.hotplug_mib = hotplug_mib;
        spec.share.files = 77;
        let dir = spec.share.dir.clone();
        let spec = spec.validate().unwrap();
        assert!(dir.is_absolute());
        let mut expected = vec![
            DeviceConfig::Vsock {
                cid: 3,
                uds: "/vsock/vsock.sock".into(),
            },
            // The directory's place in the jail.
            DeviceConfig::Fs {
                tag: "rust-kata".into(),
                dir: "/share".into(),
                files: 77,
            },
            DeviceConfig::Rng,
            DeviceConfig::Balloon,
        ];
        expected.extend(memory);
        assert_eq!(devices(&spec), expected);
    }
}

#[tokio::test]
async fn requests_reach_the_vmm_and_its_answers_the_owner() {
    require!(root());
    require!(test_support::kvm());
    let (_dir, spec) = spec("word", |spec| spec.max_vcpus = 2);

    let vm = KvmVm::create(spec.clone()).await.unwrap();
    let processes = vm.processes();
    vm.boot().await.unwrap();
    vm.pause().await.unwrap();
    vm.resume().await.unwrap();
    assert_eq!(vm.plug_memory(256).await.unwrap(), 128);
    let disk = Extra::Block {
        file: null(),
        read_only: true,
        id: "d".into(),
    };
    assert_eq!(vm.attach(disk).await.unwrap(), 7);
    let net = Extra::Net {
        taps: vec![null(), null()],
        mac: [2; 6],
        mtu: Some(1400),
    };
    assert_eq!(vm.attach(net).await.unwrap(), 7);
    vm.detach(7).await.unwrap();
    let refused = vm.detach(8).await.unwrap_err();
    let mark = vm.boot_mark().await.unwrap();

    assert_eq!(mark, Some(Duration::from_micros(1234)));
    let empty =
        matches!(&refused, Error::Control(ControlError::Refused(why)) if why == "an empty slot");
    assert!(empty, "{refused:?}");
    let [VmProcess { role, pid, .. }] = processes[..] else {
        panic!("{processes:?}");
    };
    assert_eq!(role, Role::Vmm);
    assert!(Path::new(&format!("/proc/{pid}")).exists());

    vm.kill().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let exit = vm.wait().await;
    let end = (exit.process, exit.status);
    assert_eq!(end, (Role::Vmm, ExitStatus::Signal(libc::SIGKILL)));
    vm.kill().await;
    let after = vm.pause().await.unwrap_err();
    assert!(
        matches!(&after, Error::Exited(why) if *why == exit),
        "{after:?}"
    );
    let expected = [
        "build 1 of 2",
        "kernel \"\\u{7f}ELF\"",
        "initrd \"x\"",
        "devices [Vsock { cid: 3, uds: \"/vsock/vsock.sock\" }, \
         Fs { tag: \"rust-kata\", dir: \"/share\", files: 400000 }, Rng, Balloon]",
        "run",
        "pause",
        "run",
        "attach Block { read_only: true, id: \"d\" } 1",
        "attach Net { queues: 2, mac: [2, 2, 2, 2, 2, 2], mtu: Some(1400) } 2",
        "detach 7",
        "detach 8",
    ];
    assert_eq!(said(&spec, "vmm.log"), expected);
}

#[tokio::test]
async fn the_end_of_a_guest_is_told_with_all_that_is_known() {
    require!(root());
    require!(test_support::kvm());
    let (_dir, spec) = spec(ENDS, |_| {});
    let vm = KvmVm::create(spec.clone()).await.unwrap();

    vm.boot().await.unwrap();
    let exit = vm.wait().await;

    let end = (exit.process, exit.status);
    assert_eq!(end, (Role::Vmm, ExitStatus::Code(0)));
    let causes: Vec<_> = exit.reason.split("; ").collect();
    assert_eq!(causes.first(), Some(&"the guest powered off"));
    assert_eq!(causes.last(), Some(&PANIC));
    let after = vm.resume().await.unwrap_err();
    assert!(
        matches!(&after, Error::Exited(why) if *why == exit),
        "{after:?}"
    );
}

#[tokio::test]
async fn a_vm_that_is_dropped_ends() {
    require!(root());
    require!(test_support::kvm());
    let (_dir, spec) = spec("word", |_| {});
    let vm = KvmVm::create(spec).await.unwrap();
    let pid = vm.processes()[0].pid;

    drop(vm);

    gone(pid).await;
}

#[tokio::test]
async fn a_machine_that_is_not_built_is_an_error_with_the_cause() {
    require!(root());
    require!(test_support::kvm());
    let (_dir, refusing) = spec(REFUSES, |_| {});
    let refused = KvmVm::create(refusing).await.err().unwrap();
    let told = matches!(&refused, Error::Control(ControlError::Refused(why)) if why == "not today");
    assert!(told, "{refused:?}");

    let (_dir, ending) = spec("word", |spec| {
        script(&spec.vmm_binary, "echo it broke >&2; exit 3");
    });
    let ended = KvmVm::create(ending).await.err().unwrap();
    let Error::Exited(exit) = &ended else {
        panic!("{ended:?}");
    };
    let end = (exit.process, exit.status, &*exit.reason);
    assert_eq!(end, (Role::Vmm, ExitStatus::Code(3), "it broke"));
}
