//! Throughput of block, net and vsock devices: rust-kata-vmm's own against QEMU's in its
//! microvm, with vhost for vsock, since QEMU has no vsock of its own. Both use the same kernel,
//! the same init (this program, see `guest`), the same image in memory and the same tap.
//!
//! `BENCH_ONLY=throughput` measures nothing else.

mod guest;
mod peers;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::capture::Capture;
use harness::console;
use harness::dist::{QEMU, VMM, binary, dist, patience};
use harness::initrd::with_files;
use harness::run::{Input, Running, run};
use harness::table::{Samples, Table};
use hypervisor::{Extra, HypervisorKind, VmSpec, select};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use peers::Peer;

/// The number of bytes per task.
const AMOUNT: u64 = 16 << 20;
/// The first word of a line about a task.
const SAYS: &str = "throughput";
/// The last line.
const DONE: &str = "throughput-done";
/// The host's address for the guest, and its ports.
const HOST: &str = "10.9.0.1";
const SINK: u32 = 5001;
const SOURCE: u32 = 5002;

const TAP: &str = "bench0";
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
const WORDS: &str = "reboot=t no_timer_check tsc=reliable pci=off rdinit=/bench";

/// Runs this part instead of all others, if it is the guest's init or the only part asked for.
pub fn instead(turns: u32) {
    if std::process::id() == 1 {
        guest::live();
    }
    if std::env::var_os("BENCH_ONLY").is_some_and(|part| part == "throughput") {
        let mut table = Table::default();
        measure(turns, &mut table);
        table.print();
        std::process::exit(0);
    }
}

/// Adds a row for each task.
pub fn measure(turns: u32, table: &mut Table) {
    let bench = Bench::new().expect("the bench can be set up");
    let mut times: BTreeMap<String, [Samples; 2]> = BTreeMap::new();
    for _ in 0..turns.min(3) {
        for (side, told) in [bench.ours(), bench.qemu()].into_iter().enumerate() {
            for (what, nanoseconds) in told {
                times.entry(what).or_default()[side].add(nanoseconds / 1e6);
            }
        }
    }
    for (what, [ours, qemu]) in times {
        table.ratio(&what, "ms", ours.min(), qemu.min(), Some(1.0));
    }
}

struct Bench {
    runtime: Runtime,
    kernel: PathBuf,
    initrd: NamedTempFile,
    image: NamedTempFile,
}

impl Bench {
    fn new() -> io::Result<Self> {
        let image = NamedTempFile::new()?;
        // Filled with data, so that reads do not find holes.
        harness::run::noise(AMOUNT, |bytes| {
            io::Write::write_all(&mut image.as_file(), bytes)
        })?;
        let bench = Self {
            runtime: Runtime::new()?,
            kernel: dist().join("share/rust-kata/vmlinux"),
            initrd: initrd()?,
            image,
        };
        for words in [
            format!("tuntap add dev {TAP} mode tap vnet_hdr"),
            format!("address add {HOST}/24 dev {TAP}"),
            format!("link set {TAP} up"),
        ] {
            let mut command = Command::new("ip");
            command.args(words.split(' '));
            run(command, Input::Null, patience(10.0)).ok();
        }
        for peer in [Peer::Sink, Peer::Source] {
            peer.serve_tcp(HOST)?;
            peer.serve_vsock()?;
        }
        Ok(bench)
    }

    /// The guest's results in `rust-kata-vmm`.
    fn ours(&self) -> Vec<(String, f64)> {
        let folder = tempfile::tempdir().expect("/tmp is writable");
        let of = |name: &str| folder.path().join(name);
        for name in ["sockets", "share"] {
            fs::create_dir(of(name)).expect("ours");
        }
        let console = console::listen(&of("console.log"));
        for peer in [Peer::Sink, Peer::Source] {
            let socket = of(&format!("sockets/vsock_{}", peer.port()));
            peer.serve_unix(UnixListener::bind(socket).expect("ours"));
        }
        let spec = VmSpec {
            id: "bench".into(),
            cmdline: WORDS.split(' ').map(str::to_owned).collect(),
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
        let disk = Extra::Block {
            file: open(self.image.path()),
            read_only: false,
            id: "bench".into(),
        };
        let net = Extra::Net {
            taps: vec![peers::tap(TAP).expect("the tap is there")],
            mac: MAC,
            mtu: None,
        };
        let vm = self.runtime.block_on(async {
            let vm = choice.vmm.create(spec).await.expect("a VM");
            for device in [disk, net] {
                vm.attach(device).await.expect("a free slot");
            }
            vm.boot().await.expect("it boots");
            vm
        });
        console.expect(DONE, patience(120.0));
        let told = told(&console);
        self.runtime.block_on(vm.kill());
        told
    }

    /// The guest's results in QEMU.
    fn qemu(&self) -> Vec<(String, f64)> {
        let mut command = Command::new(QEMU);
        let words = format!("console=ttyS0 panic=-1 cryptomgr.notests quiet {WORDS}");
        let drive = format!(
            "if=none,id=disk,format=raw,file={}",
            self.image.path().display()
        );
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "256"])
            .args(["-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=on"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-drive", &drive, "-device", "virtio-blk-device,drive=disk"])
            .args([
                "-netdev",
                &format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off"),
                "-device",
                &format!("virtio-net-device,netdev=net,mac={mac}"),
            ])
            .args(["-device", "vhost-vsock-device,guest-cid=3"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.initrd.path())
            .args(["-append", &words]);
        let machine = Running::spawn(command, Input::Null);
        machine.stdout.expect(DONE, patience(120.0));
        told(&machine.stdout)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", TAP]).status();
    }
}

/// An initrd with this program as `/bench` and the libraries that it needs.
fn initrd() -> io::Result<NamedTempFile> {
    let me = fs::read_link("/proc/self/exe")?;
    let mut command = Command::new("ldd");
    command.arg(&me);
    let libraries = run(command, Input::Null, patience(10.0)).ok().out();
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let mut files = vec![("bench".to_owned(), me.clone())];
    files.extend(libraries.map(|path| {
        let name = Path::new(path).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        // The loader has a fixed path, and the libraries have others.
        let folder = if name.starts_with("ld-") {
            "lib64"
        } else {
            "lib"
        };
        (format!("{folder}/{name}"), path.into())
    }));
    with_files(&["dev", "lib", "lib64"], &files)
}

fn open(path: &Path) -> OwnedFd {
    let file = File::options().read(true).write(true).open(path);
    file.expect("the image is there").into()
}

/// The tasks with their times in nanoseconds.
fn told(console: &Capture) -> Vec<(String, f64)> {
    let text = console.now().text();
    assert!(!text.contains("failed"), "{text}");
    text.lines()
        .filter_map(|line| {
            let mut words = line.trim().strip_prefix(SAYS)?.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}
