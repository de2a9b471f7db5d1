//! The environment of one test: a private containerd, private folders, and the check that the
//! test leaves nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::capture::Capture;
use crate::dist;
use crate::events::EventLog;
use crate::image;
use crate::leak;
use crate::mounts::Machine;
use crate::process::{self, Process};
use crate::run::{self, Input};

/// Plugins of containerd that no test needs.
const DISABLED: [&str; 5] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// The prefix of the beds' folders.
pub const PREFIX: &str = "rkt-";

/// Deviations of a bed from the default.
#[derive(Default)]
pub struct Plan {
    /// The `PATH` of containerd and its children; `None`: the default.
    pub path: Option<OsString>,
    /// Lines appended to rust-kata's configuration.
    pub config: String,
}

/// A private containerd and everything that belongs to it.
pub struct Bed {
    folder: TempDir,
    path: OsString,
    containerd: RefCell<Child>,
    log: RefCell<Vec<Capture>>,
    /// The events that containerd publishes.
    pub events: EventLog,
    ids: RefCell<BTreeSet<String>>,
    made: Cell<u32>,
    mounts: Machine,
}

impl Bed {
    /// Makes a default bed.
    pub fn new() -> Self {
        Self::with(Plan::default())
    }

    /// Makes a bed that deviates by `plan`.
    pub fn with(plan: Plan) -> Self {
        // Short and outside the checkout: Unix socket paths have at most 108 bytes.
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in("/tmp")
            .expect("/tmp is writable");
        let mounts = Machine::now();
        let path = plan.path.unwrap_or_else(usual_path);
        write_configs(folder.path(), &plan.config);
        let (containerd, log) = start_containerd(folder.path(), &path);
        let events = EventLog::subscribe(client(folder.path(), &["events"]));
        let bed = Self {
            folder,
            path,
            containerd: RefCell::new(containerd),
            log: RefCell::new(vec![log]),
            events,
            ids: RefCell::default(),
            made: Cell::new(0),
            mounts,
        };
        bed.await_subscription();
        let import = bed.ctr(&[
            "images",
            "import",
            image::archive().to_str().expect("UTF-8"),
        ]);
        run::run(import, Input::Null, dist::patience(30.0)).ok();
        bed
    }

    /// Publishes events until one arrives, since `ctr events` does not say when it listens.
    fn await_subscription(&self) {
        let limit = dist::patience(20.0);
        run::run(
            client(self.dir(), &["namespaces", "create", self.namespace()]),
            Input::Null,
            limit,
        )
        .ok();
        let heard = (0..200).any(|turn| {
            let label = format!("turn={turn}");
            run::run(
                client(
                    self.dir(),
                    &["namespaces", "label", self.namespace(), &label],
                ),
                Input::Null,
                limit,
            )
            .ok();
            self.events
                .wait(Duration::from_millis(50), |event| {
                    event.topic == "/namespaces/update"
                })
                .is_some()
        });
        assert!(heard, "`ctr events` hears nothing");
    }

    /// The bed's folder. Its path marks every process of the bed.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The containerd namespace of the test.
    pub fn namespace(&self) -> &str {
        self.dir()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("an ASCII name")
    }

    /// rust-kata's state root.
    pub fn state(&self) -> PathBuf {
        self.dir().join("kata")
    }

    /// rust-kata's directory of pods, images and volumes.
    pub fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// A command line of `rust-kata`.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(dist::binary(dist::CLI));
        command.envs(self.environment()).args(args);
        command
    }

    /// Runs a command line of `rust-kata` to its end.
    pub fn rust_kata(&self, args: &[&str]) -> run::Output {
        run::run(self.cli(args), Input::Null, dist::patience(60.0))
    }

    /// containerd's address.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// The environment for programs under test that belong to this bed.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        environment(self.dir(), &self.path)
    }

    /// The machine's mounts at the time when the bed was made.
    pub fn machine_mounts(&self) -> &Machine {
        &self.mounts
    }

    /// The log of containerd and the shims.
    pub fn log(&self) -> String {
        let logs = self.log.borrow();
        logs.iter().map(|log| log.now().text()).collect()
    }

    /// Kills containerd. Shims and pods stay; events are no longer received.
    pub fn kill_containerd(&self) {
        let mut containerd = self.containerd.borrow_mut();
        process::signal(containerd.id(), Signal::SIGKILL);
        let _ = containerd.wait();
    }

    /// Starts containerd again.
    pub fn restart_containerd(&self) {
        let (containerd, log) = start_containerd(self.dir(), &self.path);
        *self.containerd.borrow_mut() = containerd;
        self.log.borrow_mut().push(log);
    }

    /// A command line of `ctr` in the test's namespace.
    pub fn ctr(&self, args: &[&str]) -> Command {
        let mut all = vec!["-n", self.namespace()];
        all.extend_from_slice(args);
        client(self.dir(), &all)
    }

    /// A new path in the bed's folder.
    pub fn fresh(&self, stem: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.dir().join(format!("{stem}-{}", self.made.get()))
    }

    /// A new busybox root file system.
    pub fn rootfs(&self) -> PathBuf {
        let root = self.fresh("rootfs");
        image::make_rootfs(&root);
        root
    }

    /// Remembers the id `id` for the leak check.
    pub fn note(&self, id: &str) {
        self.ids.borrow_mut().insert(id.to_owned());
    }

    /// The ids used so far.
    pub fn ids(&self) -> Vec<String> {
        self.ids.borrow().iter().cloned().collect()
    }

    /// The processes of this bed, without containerd and its clients.
    pub fn processes(&self) -> Vec<Process> {
        let marker = self.dir().to_str().expect("an ASCII path");
        let own = [
            self.containerd.borrow().id(),
            self.events.pid(),
            std::process::id(),
        ];
        process::marked(marker)
            .into_iter()
            .filter(|process| !own.contains(&process.pid))
            .collect()
    }

    /// The processes of this bed with the program `name`.
    pub fn named(&self, name: &str) -> Vec<Process> {
        self.processes()
            .into_iter()
            .filter(|process| process.is(name))
            .collect()
    }

    /// Panics and lists everything that is left of this bed's containers.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = leak::left_after(self, dist::patience(10.0));
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }

    /// Ends the processes that a failed test left.
    fn sweep(&self) {
        for process in self.processes() {
            process::signal(process.pid, Signal::SIGKILL);
            process::wait_gone(process.pid, Duration::from_secs(5));
        }
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let left = if failed {
            Vec::new()
        } else {
            leak::left_after(self, dist::patience(10.0))
        };
        self.sweep();
        self.kill_containerd();
        if failed || !left.is_empty() {
            eprintln!("containerd and shims said:\n{}", tell(&self.log()));
            eprintln!("{}", logs(&self.state()));
        }
        leak::remove_traces(self);
        if std::env::var_os("RUST_KATA_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
        }
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }
}

/// The lines of a log that may explain a failure.
fn tell(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.contains("level=info"))
        .collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// The last lines of the VM logs under `state`.
fn logs(state: &Path) -> String {
    let mut told = String::new();
    for (path, is_dir) in leak::tree(state) {
        if !is_dir && path.extension().is_some_and(|end| end == "log") {
            let text = fs::read(&path).unwrap_or_default();
            let tail =
                String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
            told += &format!("{}:\n{tail}\n", path.display());
        }
    }
    told
}

/// Finds a program on the harness's own search path: the bed's path may lack it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found
        .into_iter()
        .find(|file| file.is_file())
        .unwrap_or_else(|| name.into())
}

/// Starts containerd and waits until it serves; returns it and its log.
fn start_containerd(folder: &Path, path: &OsString) -> (Child, Capture) {
    let mut containerd = Command::new(program("containerd"))
        .arg("--config")
        .arg(folder.join("containerd.toml"))
        .envs(environment(folder, path))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start containerd (package containerd): {error}"));
    let log = Capture::of(containerd.stderr.take().expect("piped"));
    log.expect("containerd successfully booted", dist::patience(20.0));
    (containerd, log)
}

fn usual_path() -> OsString {
    let mut path = dist::dist().join("bin").into_os_string();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

fn environment(folder: &Path, path: &OsString) -> Vec<(OsString, OsString)> {
    vec![
        ("PATH".into(), path.clone()),
        (
            "RUST_KATA_CONFIG".into(),
            folder.join("rust-kata.toml").into(),
        ),
        ("RUST_KATA_TEST_BED".into(), folder.into()),
    ]
}

fn client(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(folder.join("containerd.sock"))
        .args(args);
    command
}

fn write_configs(folder: &Path, extra: &str) {
    let at = |name: &str| folder.join(name).display().to_string();
    let disabled: Vec<String> = DISABLED.iter().map(|name| format!("{name:?}")).collect();
    let containerd = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n[grpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        disabled.join(", "),
        at("containerd.sock"),
    );
    fs::write(folder.join("containerd.toml"), containerd).expect("our folder is writable");
    // Tests of a hypervisor select it themselves.
    let hypervisor = if extra.contains("hypervisor") {
        String::new()
    } else {
        format!("hypervisor = {:?}\n", dist::hypervisor())
    };
    let timeouts = if extra.contains("[timeouts]") {
        String::new()
    } else {
        patient_timeouts()
    };
    let ours = format!(
        "root = {:?}\ndata_root = {:?}\n{hypervisor}{extra}\n{timeouts}",
        at("kata"),
        at("data")
    );
    fs::write(folder.join("rust-kata.toml"), ours).expect("our folder is writable");
}

/// The runtime's time limits, multiplied as those of the harness.
fn patient_timeouts() -> String {
    let of = |seconds| dist::patience(seconds).as_secs().max(1);
    format!(
        "[timeouts]\nboot = {}\ncreate = {}\ncall = {}\n",
        of(120.0),
        of(60.0),
        of(10.0)
    )
}
