//! What a process does to itself before exec, seen by the program.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};
use test_support::{require, root};

use super::*;
use crate::launch::faults::{Collected, collect};
use crate::launch::seccomp::Filter;
use crate::launch::testing::{alone, forked, forked_well, say};

#[test]
fn home_comes_from_the_containers_passwd() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:7:7::/home/me:/bin/sh\n";
    assert_eq!(home(passwd, 0), "/root");
    assert_eq!(home(passwd, 7), "/home/me");
    assert_eq!(home(passwd, 8), "/");
    assert_eq!(home("", 0), "/");
}

#[test]
fn a_passwd_file_of_a_hostile_image_is_waited_for_and_read_without_end_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    let long = fs::File::create(path("long")).unwrap();
    long.set_len(1 << 40).unwrap();
    fs::write(path("latin"), b"me:x:7:7:J\xf6rg:/home/me:/bin/sh\n").unwrap();

    let (sender, read) = std::sync::mpsc::channel();
    let paths = ["fifo", "zero", "folder", "nothing", "long", "latin"].map(path);
    std::thread::spawn(move || drop(sender.send(paths.map(|path| read_passwd(&path)))));
    let read = read.recv_timeout(std::time::Duration::from_secs(20));
    let [fifo, zero, folder, nothing, long, latin] = read.expect("it waits");

    assert_eq!([fifo, zero, folder, nothing], [""; 4]);
    assert_eq!(long.len() as u64, MAX_PASSWD);
    assert_eq!(home(&long, 0), "/");
    assert_eq!(home(&latin, 7), "/home/me");
}

/// A process of root in `/`, with these settings.
fn launch(settings: Value) -> Launch {
    let mut process = json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["x"], "env": ["PATH=/bin:/usr/bin"] });
    for (key, value) in settings.as_object().unwrap() {
        process[key] = value.clone();
    }
    Launch {
        process: serde_json::from_value(process).unwrap(),
        seccomp: None,
        make_cwd: false,
        descriptors: Vec::new(),
    }
}

fn workload(launch: Launch, init: bool) -> (Workload, Collected) {
    let (faults, collected) = collect().unwrap();
    (Workload::new(launch, faults, init), collected)
}

fn environment(env: &[&str], uid: u32) -> Vec<String> {
    let launch = launch(json!({ "user": { "uid": uid, "gid": 0 }, "env": env }));
    let (workload, _collected) = workload(launch, true);
    let passwd = || "me:x:7:7::/home/me:/bin/sh\n".to_owned();
    let found = workload.environment_with(passwd).into_iter();
    found.map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn the_environment_is_the_specs_and_has_a_home() {
    let given = ["B=1", "A=x=y", "broken", "=z", "B=2", "C="];
    let expected = ["B=2", "A=x=y", "C=", "HOME=/home/me"];
    assert_eq!(environment(&given, 7), expected);
    assert_eq!(environment(&["HOME=/h", "A=1"], 7), ["HOME=/h", "A=1"]);
    assert_eq!(environment(&["HOME=", "A=1"], 7), ["A=1", "HOME=/home/me"]);
    assert_eq!(environment(&[], 8), ["HOME=/"]);
}

#[test]
fn missing_capability_sets_are_empty() {
    let sets: LinuxCapabilities = serde_json::from_str(r#"{"bounding":["CAP_KILL"]}"#).unwrap();
    let sets = complete(Some(sets));
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
    assert!(sets.effective().as_ref().unwrap().is_empty());
    assert!(complete(None).bounding().as_ref().unwrap().is_empty());
}

/// All capabilities in each set but the ambient one.
fn capabilities(names: &[&str]) -> Value {
    json!({ "bounding": names, "effective": names, "permitted": names, "inheritable": [] })
}

/// Opens a file under a number of the process, closed on exec as libcontainer leaves it.
fn open_as(path: &Path, number: i32) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    // SAFETY: the file is open; the number is this child's own.
    unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
}

/// Takes the steps before the start and those after it, as libcontainer does.
fn run(workload: &Workload) {
    let spec = Spec::default();
    if workload.launch.process.no_new_privileges() == Some(true) {
        nix::sys::prctl::set_no_new_privs().unwrap();
    }
    workload.validate(&spec).unwrap();
    let failed = workload.exec(&spec).unwrap_err();
    panic!("not executed: {failed}");
}

/// What a shell with these settings sees of itself.
fn seen(launch: Launch, script: &str) -> String {
    let mut launch = launch;
    let args = ["sh", "-c", script].map(String::from);
    launch.process.set_args(Some(args.into()));
    let (workload, _collected) = workload(launch, true);
    forked_well(|| run(&workload))
}

const STATUS: &str = "while read -r key value; do case $key in $1) echo $key $value;; esac; \
    done < /proc/self/status";

/// The lines of `/proc/self/status` with these keys.
fn status(launch: Launch, keys: &str) -> String {
    seen(launch, &STATUS.replace("$1", keys))
}

#[test]
fn a_program_gets_its_arguments_environment_directory_and_limits() {
    alone!();
    require!(root());
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().canonicalize().unwrap().join("made/for it");
    let settings = json!({
        "cwd": cwd,
        "env": ["PATH=/nowhere:/bin:/usr/bin", "A=1", "HOME=/h"],
        "capabilities": capabilities(&["CAP_KILL"]),
        "rlimits": [
            { "type": "RLIMIT_NOFILE", "soft": 65, "hard": 66 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 512 },
            { "type": "RLIMIT_FSIZE", "soft": 1024, "hard": 2048 },
        ],
    });
    let mut launch = launch(settings);
    launch.make_cwd = true;
    let script = "echo $0 $A $HOME; pwd; ulimit -n; ulimit -Hn; ulimit -Hc; ulimit -f; ulimit -Hf";
    let expected = format!("sh 1 /h\n{}\n65\n66\n1\n2\n4\n", cwd.display());
    assert_eq!(seen(launch, script), expected);
    let made = fs::metadata(&cwd).unwrap();
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o7777),
        (0, 0, 0o755)
    );
}

#[test]
fn a_program_has_the_capabilities_and_signals_of_its_spec() {
    alone!();
    require!(root());
    let kill_alone = json!({ "capabilities": capabilities(&["CAP_KILL"]) });
    let expected = "CapInh: 0000000000000000\nCapPrm: 0000000000000020\n\
        CapEff: 0000000000000020\nCapBnd: 0000000000000020\nCapAmb: 0000000000000000\n";
    assert_eq!(status(launch(kill_alone), "Cap???:"), expected);

    let args = ["sh", "-c", &STATUS.replace("$1", "Sig[BIC]*:")].map(String::from);
    let mut launch = launch(json!({}));
    launch.process.set_args(Some(args.into()));
    let (workload, _collected) = workload(launch, true);
    let signals = forked_well(|| {
        let mut blocked = nix::sys::signal::SigSet::empty();
        blocked.add(nix::sys::signal::Signal::SIGUSR1);
        blocked.thread_block().unwrap();
        // SAFETY: no handler is installed. 34 is the last that glibc keeps for itself.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(64, libc::SIG_IGN);
        }
        run(&workload);
    });
    assert!(
        signals.contains("SigBlk: 0000000000000000\nSigIgn: 0000000000000000\n"),
        "{signals}"
    );
}

#[test]
fn a_filter_is_loaded_once_while_it_is_permitted() {
    alone!();
    require!(root());
    let filtered = |syscalls: Value| {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls });
        Some(Filter::compile(&serde_json::from_value(profile).unwrap()).unwrap())
    };
    assert_eq!(status(launch(json!({})), "Seccomp:"), "Seccomp: 0\n");
    // Without no_new_privs it needs a capability that the process will not have.
    let mut plain = launch(json!({}));
    plain.seccomp = filtered(json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]));
    let once = "Seccomp: 2\nSeccomp_filters: 1\n";
    assert_eq!(status(plain.clone(), "Seccomp*:"), once);
    // With it, the filter may forbid what comes before the program.
    let no_new_privs = json!({ "noNewPrivileges": true });
    let mut late = launch(no_new_privs);
    late.seccomp = filtered(json!([{ "names": ["capset"], "action": "SCMP_ACT_KILL_PROCESS" }]));
    assert_eq!(status(late, "Seccomp*:"), once);
    plain.process.set_no_new_privileges(Some(false));
    assert_eq!(status(plain, "Seccomp*:"), once);
}

#[test]
fn streams_belong_to_the_user_and_only_asked_descriptors_stay_open() {
    alone!();
    require!(root());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, "").unwrap();
        path
    };
    let (kept, closed, others) = (file("kept"), file("closed"), file("others"));
    let null = folder.path().join("null");
    let device = libc::makedev(1, 3);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&null, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
    let script = "for n in 0 7 8; do [ -e /proc/self/fd/$n ] && echo $n; done; true";
    let args = ["sh", "-c", script].map(String::from);
    let mut launch = launch(json!({ "user": { "uid": 1234, "gid": 0 } }));
    launch.process.set_args(Some(args.into()));
    launch.descriptors = vec![7];
    let (workload, _collected) = workload(launch, false);

    let said = forked_well(|| {
        open_as(&null, 0);
        open_as(&kept, 7);
        open_as(&closed, 8);
        // What libcontainer hands over is open.
        keep_open(&[0]).unwrap();
        run(&workload);
    });

    assert_eq!(said, "0\n7\n");
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!(
        [&kept, &closed, &others, &null].map(|p| owner(p)),
        [1234, 0, 0, 0]
    );
    let not_open = keep_open(&[999_999]).unwrap_err();
    assert_eq!(not_open.kind, Kind::Internal);
    assert!(
        not_open
            .message
            .starts_with("keep descriptor 999999 open: "),
        "{not_open:?}"
    );
}

#[test]
fn a_terminal_has_the_size_of_the_spec() {
    alone!();
    let pty = nix::pty::openpty(None, None).unwrap();
    let launch = launch(json!({
        "args": ["/bin/sh"], "consoleSize": { "width": 132, "height": 50 },
    }));
    let (workload, _collected) = workload(launch, true);
    forked_well(|| {
        // SAFETY: the descriptor is open.
        unsafe { libc::dup2(pty.slave.as_raw_fd(), 0) };
        workload.validate(&Spec::default()).unwrap();
        // SAFETY: all zeroes is a valid size, and it lives through the call.
        let size = unsafe {
            let mut size: libc::winsize = std::mem::zeroed();
            libc::ioctl(0, libc::TIOCGWINSZ, &mut size);
            size
        };
        assert_eq!((size.ws_col, size.ws_row), (132, 50));
    });
}

/// How the steps before the start fail.
fn refusal(launch: Launch) -> Fault {
    let (workload, collected) = workload(launch, true);
    forked_well(|| assert!(workload.validate(&Spec::default()).is_err()));
    collected.explain(Fault::invalid("nothing was reported"))
}

#[test]
fn a_program_is_looked_up_with_its_own_rights() {
    alone!();
    require!(root());
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let program = closed.join("program");
    fs::write(&program, "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    chown(&closed, Some(1), Some(1)).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
    let named =
        |names: &[&str]| launch(json!({ "args": [program], "capabilities": capabilities(names) }));

    let refused = refusal(named(&["CAP_KILL"]));
    assert_eq!(refused.kind, Kind::NotExecutable);
    assert_eq!(
        refused.message,
        format!("exec: {program:?}: permission denied")
    );
    let (workload, _collected) = workload(named(&["CAP_DAC_OVERRIDE"]), true);
    assert_eq!(forked_well(|| run(&workload)), "ran\n");
}

#[test]
fn what_cannot_start_is_named_before_the_start() {
    alone!();
    let in_folder = |cwd: &str, args: Value| launch(json!({ "cwd": cwd, "args": args }));
    let nowhere = refusal(in_folder("/no/such", json!(["true"])));
    let message =
        "chdir to cwd (\"/no/such\") set in config.json failed: no such file or directory";
    assert_eq!(nowhere, Fault::invalid(message));
    let nothing = refusal(in_folder("/", json!([])));
    assert_eq!(nothing, Fault::invalid("process.args is empty"));
    let unknown = refusal(in_folder("/", json!(["/no/such"])));
    assert_eq!(unknown.kind, Kind::NoSuchCommand);
}

#[test]
fn a_program_that_cannot_be_executed_is_told_of_where_it_is_waited_for() {
    alone!();
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    fs::write(&broken, [0x7f, 0, 1, 2]).unwrap();
    fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let mut launch = launch(json!({ "args": [broken] }));
    let caps = capabilities(&["CAP_SETPCAP"]);
    launch
        .process
        .set_capabilities(Some(serde_json::from_value(caps).unwrap()));
    let message = format!("exec {}: exec format error", broken.display());
    let both_steps = |workload: &Workload| {
        workload.validate(&Spec::default()).unwrap();
        if let Err(ExecutorError::Other(message)) = workload.exec(&Spec::default()) {
            say(&format!("returned: {message}"));
        }
    };
    require!(root());

    // An exec session is waited for.
    let (exec, collected) = workload(launch.clone(), false);
    assert_eq!(
        forked_well(|| both_steps(&exec)),
        format!("returned: {message}")
    );
    let reported = collected.explain(Fault::invalid("nothing was reported"));
    assert_eq!(
        (reported.kind, reported.message),
        (Kind::NotExecutable, message.clone())
    );

    // A started init has its stderr alone.
    let (init, _collected) = workload(launch, true);
    let (end, _) = forked(|| both_steps(&init));
    assert!(matches!(end, WaitStatus::Exited(_, 1)), "{end:?}");
}

#[test]
fn folders_are_made_where_there_is_nothing() {
    require!(root());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // The next step says what it is.
    make_folder(&file).unwrap();
    assert!(file.is_file());
    let below = make_folder(&file.join("below")).unwrap_err();
    assert_eq!(below.raw_os_error(), Some(libc::ENOTDIR));
    make_folder(&folder.path().join("a/b/../c")).unwrap();
    assert!(folder.path().join("a/c").is_dir());
}
