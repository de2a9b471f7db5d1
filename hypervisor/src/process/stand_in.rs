//! Programs that stand in for those of a VM: scripts, some of which run a part of this test
//! program.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::{Attached, Server, Service, VmmStatus};
use crate::machine::{Ending, GuestExit, MachineConfig, MachineFiles};
use crate::spec::{ValidSpec, VmSpec};

/// The arguments of a stand-in.
const ARGS: &str = "RUST_KATA_TEST_STAND_IN";

/// The word on a kernel's command line that makes it end.
pub const ENDS: &str = "stand_in=ends";
/// The word that makes a stand-in refuse.
pub const REFUSES: &str = "stand_in=refuses";
/// What a kernel writes to its console before its end.
pub const PANIC: &str = "Kernel panic - not syncing: as a test wants it";

/// Writes a shell script that is executable.
pub fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Writes a program that runs `test` of this one, which finds its arguments by [`args`].
pub fn runs(path: &Path, test: &str) {
    let this = std::env::current_exe().unwrap();
    let this = this.display();
    let run = format!("exec '{this}' --exact {test} --nocapture --test-threads=1");
    script(path, &format!("{ARGS}=\"$*\" {run}"));
}

/// The arguments of the program for which this process stands in; `None` if it does not.
pub fn args() -> Option<String> {
    let args = std::env::var(ARGS).ok()?;
    // Ends the line on which the name of the test is.
    eprintln!();
    Some(args)
}

/// The descriptor whose number follows `before` in the arguments.
pub fn descriptor(args: &str, before: &str) -> OwnedFd {
    let rest = args.split_once(before).unwrap().1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    // SAFETY: it was passed for this use, and has no other owner here.
    unsafe { OwnedFd::from_raw_fd(digits.parse().unwrap()) }
}

/// A valid spec whose `rust-kata-vmm` is a stand-in, with this word for the kernel.
pub fn spec(word: &str, change: impl FnOnce(&mut VmSpec)) -> (tempfile::TempDir, ValidSpec) {
    let (dir, mut spec) = crate::spec::fixture();
    spec.vmm_binary = dir.path().join("vmm");
    runs(&spec.vmm_binary, "process::stand_in::stands_in_for_the_vmm");
    spec.cmdline = vec![word.into()];
    change(&mut spec);
    let spec = spec.validate().unwrap();
    (dir, spec)
}

/// Waits for the end of a process that this one has started.
pub async fn gone(pid: u32) {
    let end = Instant::now() + Duration::from_secs(20);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < end, "process {pid} goes on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The lines of the log of a stand-in, which begin with `> `.
pub fn said(spec: &ValidSpec, log: &str) -> Vec<String> {
    let text = fs::read_to_string(spec.file(log)).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("> "));
    lines.map(str::to_owned).collect()
}

/// A VMM without a machine: it tells what it is asked for.
#[derive(Default)]
struct StandIn {
    machine: Option<(MachineConfig, MachineFiles, Ending)>,
}

impl Service for StandIn {
    fn serve(&mut self, devices: Vec<Attached>) -> Result<(), String> {
        for (config, files) in devices {
            eprintln!("> serve {config:?} {}", files.len());
        }
        Ok(())
    }

    fn build(
        &mut self,
        machine: MachineConfig,
        files: MachineFiles,
        devices: Vec<Attached>,
    ) -> Result<Ending, String> {
        if machine.cmdline.contains(REFUSES) {
            return Err("not today".into());
        }
        eprintln!("> build {} of {}", machine.vcpus, machine.max_vcpus);
        for (name, file) in [("kernel", &files.kernel), ("initrd", &files.initrd)] {
            let mut text = [0; 4];
            let file = file.try_clone().unwrap();
            let len = fs::File::from(file).read(&mut text).unwrap();
            eprintln!("> {name} {:?}", String::from_utf8_lossy(&text[..len]));
        }
        let names: Vec<_> = devices.iter().map(|(config, _)| config).collect();
        eprintln!("> devices {names:?}");
        let ending = Ending::new().unwrap();
        self.machine = Some((machine, files, ending.clone()));
        Ok(ending)
    }

    fn run(&mut self) -> Result<(), String> {
        eprintln!("> run");
        let (machine, files, ending) = self.machine.as_ref().unwrap();
        if machine.cmdline.contains(ENDS) {
            let mut console = fs::File::from(files.console.try_clone().unwrap());
            writeln!(console, "booting\n{PANIC}\nthe rest").unwrap();
            ending.report(GuestExit::PowerOff);
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), String> {
        eprintln!("> pause");
        Ok(())
    }

    fn plug_memory(&mut self, mib: u32) -> Result<u32, String> {
        Ok(mib / 2)
    }

    fn attach(&mut self, (config, files): Attached) -> Result<u32, String> {
        eprintln!("> attach {config:?} {}", files.len());
        Ok(7)
    }

    fn detach(&mut self, slot: u32) -> Result<(), String> {
        eprintln!("> detach {slot}");
        match slot {
            7 => Ok(()),
            _ => Err("an empty slot".into()),
        }
    }

    fn status(&self) -> VmmStatus {
        VmmStatus {
            devices: Vec::new(),
            boot_mark_us: Some(1234),
        }
    }

    fn stop(&mut self) {}
}

/// The programs that [`spec`] makes run it.
#[test]
fn stands_in_for_the_vmm() {
    let Some(args) = args() else {
        return;
    };
    let control = descriptor(&args, "--control-fd ");
    Server::new(control, StandIn::default())
        .unwrap()
        .run()
        .unwrap();
    // Without the report of the test, which would be the last words.
    std::process::exit(0);
}
