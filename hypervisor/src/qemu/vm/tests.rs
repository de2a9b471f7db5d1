//! A VM whose QEMU and `rust-kata-vmm` are stand-ins.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use super::super::layout::tests::elf;
use super::*;
use crate::process::stand_in::{self, ENDS, PANIC, REFUSES, gone, said, script};
use crate::spec::VmSpec;
use test_support::{require, root};

/// A spec whose QEMU is [`stands_in_for_qemu`].
fn spec(word: &str, change: impl FnOnce(&mut VmSpec)) -> (tempfile::TempDir, ValidSpec) {
    stand_in::spec(word, |spec| {
        spec.qemu_binary = spec.dir.join("qemu");
        let test = "qemu::vm::tests::stands_in_for_qemu";
        stand_in::runs(&spec.qemu_binary, test);
        fs::write(&spec.kernel, elf(&[(16 << 20, 1 << 20)])).unwrap();
        change(spec);
    })
}

async fn create(spec: &ValidSpec) -> Result<QemuVm, Error> {
    QemuVm::create(spec.clone(), Accelerator::Tcg, None).await
}

/// QEMU's protocol: docs/interop/qmp-spec.
#[test]
fn stands_in_for_qemu() {
    let Some(args) = stand_in::args() else {
        return;
    };
    let mut qmp = UnixStream::from(stand_in::descriptor(&args, "id=qmp,fd="));
    let requests = BufReader::new(qmp.try_clone().unwrap());
    let console = stand_in::descriptor(&args, "id=console,fd=");
    let version = r#"{"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}"#;
    let mut tell = |line: &str| writeln!(qmp, "{line}").unwrap();
    tell(&format!(
        r#"{{"QMP": {{"version": {version}, "capabilities": []}}}}"#
    ));
    for line in requests.lines() {
        let request: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let command = request["execute"].as_str().unwrap();
        eprintln!("> {command}");
        let mut answer = match command {
            "stop" if args.contains(REFUSES) => serde_json::json!({
                "error": {"class": "GenericError", "desc": "not now"}
            }),
            _ => serde_json::json!({"return": {}}),
        };
        if let Some(id) = request.get("id") {
            answer["id"] = id.clone();
        }
        tell(&answer.to_string());
        if command == "cont" && args.contains(ENDS) {
            let data = serde_json::json!({"guest": true, "reason": "guest-shutdown"});
            let time = serde_json::json!({"seconds": 1, "microseconds": 2});
            tell(
                &serde_json::json!({"event": "SHUTDOWN", "data": data, "timestamp": time})
                    .to_string(),
            );
            let mut console = fs::File::from(console);
            writeln!(console, "booting\n{PANIC}\nthe rest").unwrap();
            break;
        }
    }
    // Without the report of the test, which would be the last words.
    std::process::exit(0);
}

fn exists(process: &VmProcess) -> bool {
    Path::new(&format!("/proc/{}", process.pid)).exists()
}

#[tokio::test]
async fn requests_reach_qemu_and_devices_the_vmm() {
    require!(root());
    let (_dir, spec) = spec("word", |_| {});

    let vm = create(&spec).await.unwrap();
    let processes = vm.processes();
    vm.boot().await.unwrap();
    vm.pause().await.unwrap();
    vm.resume().await.unwrap();
    let mark = vm.boot_mark().await.unwrap();
    assert_eq!(mark, None);
    assert_eq!(
        processes.iter().map(|it| it.role).collect::<Vec<_>>(),
        [Role::Vmm, Role::Qemu]
    );
    assert!(processes.iter().all(exists));

    vm.kill().await;
    assert!(!processes.iter().any(exists));
    let exit = vm.wait().await;
    assert_eq!(exit.status, ExitStatus::Signal(libc::SIGKILL));
    for failed in [vm.boot().await, vm.pause().await, vm.resume().await] {
        let failed = failed.unwrap_err();
        assert!(
            matches!(&failed, Error::Exited(why) if *why == exit),
            "{failed:?}"
        );
    }
    assert_eq!(
        said(&spec, "qemu.log"),
        ["qmp_capabilities", "cont", "stop", "cont"]
    );
    let devices = [
        "serve Vsock { cid: 3, uds: \"/vsock/vsock.sock\" } 1",
        "serve Fs { tag: \"rust-kata\", dir: \"/share\", files: 400000 } 1",
    ];
    assert_eq!(said(&spec, "vmm.log"), devices);
}

#[tokio::test]
async fn what_qemu_cannot_do_or_refuses_is_an_error() {
    require!(root());
    let (_dir, spec) = spec(REFUSES, |_| {});
    let vm = create(&spec).await.unwrap();

    let refused = vm.pause().await.unwrap_err();
    let Error::Qmp { command, reason } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*command, "stop");
    assert!(reason.contains("not now"), "{reason}");
    let net = Extra::Net {
        taps: vec![],
        mac: [2; 6],
        mtu: None,
    };
    for (failed, kept) in [
        (vm.plug_memory(1).await.err(), "memory"),
        (vm.attach(net).await.err(), "devices"),
        (vm.detach(0).await.err(), "devices"),
    ] {
        let Some(Error::Unsupported { kind, reason }) = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(kind, HypervisorKind::Qemu);
        assert!(reason.contains(kept), "{reason}");
    }
}

#[tokio::test]
async fn the_end_of_a_guest_is_told_with_all_that_is_known() {
    require!(root());
    let (_dir, spec) = spec(ENDS, |_| {});
    let vm = create(&spec).await.unwrap();
    let processes = vm.processes();

    vm.boot().await.unwrap();
    let exit = vm.wait().await;

    let end = (exit.process, exit.status);
    assert_eq!(end, (Role::Qemu, ExitStatus::Code(0)));
    let causes: Vec<_> = exit.reason.split("; ").collect();
    assert!(causes[0].contains("shutdown"), "{causes:?}");
    assert!(causes.contains(&"> cont"), "{causes:?}");
    assert_eq!(causes.last(), Some(&PANIC));
    assert!(
        exists(&processes[0]),
        "the other process is killed by the owner"
    );
    drop(vm);
    gone(processes[0].pid).await;
}

#[tokio::test]
async fn the_end_of_the_vmm_is_the_end_of_the_vm() {
    require!(root());
    let (_dir, spec) = spec("word", |_| {});
    let vm = create(&spec).await.unwrap();
    let processes = vm.processes();

    crate::kill_recorded(&processes[..1]).unwrap();
    let exit = vm.wait().await;

    let end = (exit.process, exit.status);
    assert_eq!(end, (Role::Vmm, ExitStatus::Signal(libc::SIGKILL)));
    assert!(!exit.reason.contains("Kernel panic"));
    drop(vm);
    for process in processes {
        gone(process.pid).await;
    }
}

#[tokio::test]
async fn a_qemu_that_ends_at_its_start_is_an_error_with_the_cause() {
    require!(root());
    let create = async |text: &str| {
        let (_dir, spec) = spec("word", |spec| script(&spec.qemu_binary, text));
        create(&spec).await.err().unwrap()
    };
    let ended = create("echo no memory >&2; exit 1").await;
    let Error::Exited(exit) = &ended else {
        panic!("{ended:?}");
    };
    let end = (exit.process, exit.status, &*exit.reason);
    assert_eq!(end, (Role::Qemu, ExitStatus::Code(1), "no memory"));
    let lacking = create("echo \"qemu: could not load PC BIOS 'qboot.rom'\" >&2; exit 1").await;
    let firmware = matches!(&lacking, Error::Firmware { name: "qboot.rom", reason } if reason.contains("PC BIOS"));
    assert!(firmware, "{lacking:?}");
}

#[tokio::test]
async fn a_program_that_does_not_start_takes_the_other_with_it() {
    require!(root());
    // An empty file is no program.
    let (dir, spec) = spec("word", |spec| {
        fs::write(&spec.qemu_binary, "").unwrap();
        script(
            &spec.vmm_binary,
            "echo $$ > \"$(dirname \"$0\")/pid\"; exec sleep 1000",
        );
    });
    let failed = create(&spec).await.err().unwrap();
    let qemu = matches!(
        &failed,
        Error::Spawn {
            role: Role::Qemu,
            ..
        }
    );
    assert!(qemu, "{failed:?}");
    // By its command line: it has its own process ids.
    let name = dir.path().to_str().unwrap();
    let left = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        line.contains(name).then_some(line)
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn only_qemu_can_lack_its_firmware() {
    let exit = |process, reason: &str| VmExit {
        process,
        status: ExitStatus::Code(1),
        reason: reason.into(),
    };
    let lacks = |process, reason| matches!(ended(exit(process, reason)), Error::Firmware { .. });
    assert!(lacks(Role::Qemu, "could not load PC BIOS 'qboot.rom'"));
    assert!(!lacks(Role::Vmm, "could not load PC BIOS 'qboot.rom'"));
    assert!(!lacks(Role::Qemu, "could not load PC BIOS 'bios.bin'"));
}
