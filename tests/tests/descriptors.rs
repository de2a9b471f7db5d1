//! `--preserve-fds` and `--preserve-fd` of `container exec`: descriptors of the caller for a
//! process in a VM.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use harness::bed::Bed;
use harness::capture::Capture;
use harness::dist::{self, subject_is_ours};
use harness::require;
use harness::run::{Input, Output, Running, noise, noise_sha256, run};
use harness::scene::limit;
use serde_json::Value;

/// A bed with a container `c` that waits to be killed.
fn bed() -> Bed {
    let bed = Bed::new();
    let mut command = bed.cli(&["run", "--detach", "--name", "c", "--rootfs"]);
    command.arg(bed.rootfs()).args([
        "--",
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ]);
    run(command, Input::Null, limit()).ok();
    bed
}

/// Passes these descriptors to a command, under these numbers.
fn with(mut command: Command, fds: Vec<(RawFd, OwnedFd)>) -> Command {
    let mut aside = Vec::with_capacity(fds.len());
    // SAFETY: between fork and exec only dup(2) and similar calls are made; the list has its
    // final size.
    unsafe {
        command.pre_exec(move || {
            // First move them out of each other's way.
            for (number, fd) in &fds {
                let high = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 950);
                aside.push((*number, high));
            }
            for (number, high) in aside.drain(..) {
                if libc::dup2(high, number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

fn exec(bed: &Bed, flags: &[&str], script: &str, fds: Vec<(RawFd, OwnedFd)>) -> Command {
    let words = [&["container", "exec"], flags, &["c", "sh", "-c", script]];
    with(bed.cli(&words.concat()), fds)
}

fn read(path: &PathBuf) -> (RawFd, OwnedFd) {
    (3, File::open(path).expect("a file of the test").into())
}

fn write(path: &PathBuf) -> (RawFd, OwnedFd) {
    (4, File::create(path).expect("a file of the test").into())
}

fn sessions(bed: &Bed) -> Vec<Value> {
    let words = ["container", "session", "ls", "--format", "json", "c"];
    let text = bed.rust_kata(&words).ok().out();
    serde_json::from_str(&text).expect("JSON")
}

fn owner(bed: &Bed) -> u32 {
    let owners = bed.named(dist::CLI);
    assert_eq!(owners.len(), 1, "{owners:?}");
    owners[0].pid
}

/// The open files of a process.
fn open(pid: u32) -> Vec<PathBuf> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let all = folder.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    all.collect()
}

#[test]
fn files_are_read_and_written_and_nothing_else_is_open() {
    require!(subject_is_ours());
    let bed = bed();
    let (from, to) = (bed.fresh("from"), bed.fresh("to"));
    fs::write(&from, "from the caller").expect("the bed is ours");
    let before = open(owner(&bed)).len();

    // Another user may reopen the streams by their paths.
    let script = "cat /dev/fd/3 >&4; echo ' and back' > /dev/fd/4; ls /proc/$$/fd; exit 7";
    let flags = ["--user", "1000:2000", "--preserve-fds", "2"];
    let command = exec(&bed, &flags, script, vec![read(&from), write(&to)]);
    let output = run(command, Input::Null, limit()).exits(7);

    // All data has been written when the command ends.
    let written = fs::read_to_string(&to).expect("the bed is ours");
    assert_eq!(written, "from the caller and back\n", "{output:?}");
    assert_eq!(output.out(), "0\n1\n2\n3\n4\n");
    let session = sessions(&bed).pop().expect("it is recorded");
    let id = session["id"].as_str().expect("a text");
    let words = ["container", "session", "inspect", "c", id];
    let text = bed.rust_kata(&words).ok().out();
    let inspected: Value = serde_json::from_str(&text).expect("JSON");
    let listed = serde_json::json!([
        {"number": 3, "direction": "in"},
        {"number": 4, "direction": "out"},
    ]);
    assert_eq!(inspected[0]["preserve_fds"], listed, "{text}");

    // Only the descriptors with the given numbers.
    let far = vec![
        (900, OwnedFd::from(File::open(&from).expect("of the test"))),
        (3, File::open(&from).expect("of the test").into()),
    ];
    let flags = ["--preserve-fd", "900"];
    let command = exec(&bed, &flags, "cat <&900; echo; ls /proc/$$/fd; exit 0", far);
    let output = run(command, Input::Null, limit()).ok();
    assert_eq!(output.out(), "from the caller\n0\n1\n2\n900\n");

    // The owner closes a client's descriptors a moment after the client has ended.
    let until = Instant::now() + limit();
    while open(owner(&bed)).len() > before {
        let now = open(owner(&bed));
        assert!(Instant::now() < until, "{before} before, then {now:?}");
    }
    bed.rust_kata(&["container", "rm", "--force", "c"]).ok();
}

#[test]
fn much_goes_through_a_pipe_and_a_slow_reader_gets_all() {
    require!(subject_is_ours());
    let bed = bed();
    let length = 20 << 20;
    let (source, mut feed) = std::io::pipe().expect("a pipe");
    let (drain, sink) = std::io::pipe().expect("a pipe");
    std::thread::spawn(move || noise(length, |bytes| feed.write_all(bytes)));
    let fds = vec![(3, source.into()), (4, sink.into())];
    let command = exec(&bed, &["--preserve-fds", "2"], "cat <&3 >&4", fds);
    let running = Running::spawn(command, Input::Null);
    let copied = Capture::of(drain);
    running.finish(dist::patience(120.0)).ok();
    let copied = copied.finish(limit());
    assert_eq!(
        (copied.length, copied.sha256()),
        (length, noise_sha256(length))
    );

    // The process ends even if its output is not read, and the end is recorded; all output can
    // be read afterwards.
    let (mut drain, sink) = std::io::pipe().expect("a pipe");
    let script = "head -c 1000000 /dev/zero >&4; exit 3";
    let command = exec(
        &bed,
        &["--preserve-fd", "4"],
        script,
        vec![(4, sink.into())],
    );
    let mut running = Running::spawn(command, Input::Null);
    let ended = |session: &Value| session["exit_code"] == 3;
    let until = Instant::now() + limit();
    while !sessions(&bed).iter().any(ended) {
        assert!(Instant::now() < until, "{:?}", sessions(&bed));
    }
    assert!(running.is_running(), "it waits for what it has to write");
    let mut all = Vec::new();
    // The pipe ends, too, even if the end of the exec is not waited for.
    drain.read_to_end(&mut all).expect("our pipe");
    assert_eq!(all.len(), 1_000_000);
    running.finish(limit()).exits(3);
    bed.rust_kata(&["container", "rm", "--force", "c"]).ok();
}

#[test]
fn each_way_of_a_socket_ends_by_itself() {
    require!(subject_is_ours());
    let bed = bed();
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    // The process reads to the end, answers, and closes; then it waits for the end of stdin.
    let script = "n=$(wc -c <&5); echo $n >&5; exec 5>&-; cat; exit 4";
    let flags = ["--interactive", "--preserve-fd", "5"];
    let command = exec(&bed, &flags, script, vec![(5, theirs.into())]);
    let mut running = Running::spawn(command, Input::Open);
    noise(3 << 20, |bytes| ours.write_all(bytes)).expect("it is read");
    ours.shutdown(Shutdown::Write).expect("our socket");
    let mut answer = String::new();
    ours.read_to_string(&mut answer).expect("our socket");
    assert_eq!(answer, format!("{}\n", 3 << 20));
    assert!(running.is_running());
    running.send(b"end");
    running.close_stdin();
    assert_eq!(running.finish(limit()).exits(4).out(), "end");
    bed.rust_kata(&["container", "rm", "--force", "c"]).ok();
}

#[test]
fn a_child_that_holds_one_does_not_hold_back_the_end() {
    require!(subject_is_ours());
    let bed = bed();
    let (drain, sink) = std::io::pipe().expect("a pipe");
    let script = "(sleep 1000; echo late >&4) </dev/null >/dev/null 2>&1 & echo now >&4; exit 5";
    let command = exec(
        &bed,
        &["--preserve-fd", "4"],
        script,
        vec![(4, sink.into())],
    );
    let running = Running::spawn(command, Input::Null);
    let said = Capture::of(drain);
    running.finish(limit()).exits(5);
    let said = said.finish(limit());
    assert_eq!((said.text().as_str(), said.ended), ("now\n", true));

    // A terminal does not interfere.
    let (drain, sink) = std::io::pipe().expect("a pipe");
    let script = "test -t 0 && echo tty >&4";
    let flags = ["--tty", "--preserve-fd", "4"];
    let command = exec(&bed, &flags, script, vec![(4, sink.into())]);
    let running = Running::spawn(command, Input::Null);
    let said = Capture::of(drain);
    running.finish(limit()).ok();
    assert_eq!(said.finish(limit()).text(), "tty\n");
    bed.rust_kata(&["container", "rm", "--force", "c"]).ok();
}

#[test]
fn what_cannot_be_passed_on_is_named_and_owners_keep_nothing() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let file = bed.fresh("file");
    fs::write(&file, "words").expect("the bed is ours");
    let rootfs = bed.rootfs();
    let mut command = bed.cli(&["run", "--detach", "--name", "c", "--rootfs"]);
    command.arg(rootfs).args(["--", "sleep", "1000"]);
    let command = with(command, vec![read(&file)]);
    run(command, Input::Null, limit()).ok();
    // The owner does not inherit the caller's descriptors.
    let kept = open(owner(&bed));
    assert!(!kept.contains(&file), "{kept:?}");

    let refused = |flags: &[&str], fds| -> Output {
        let output = run(exec(&bed, flags, "true", fds), Input::Null, limit());
        assert!(output.out().is_empty(), "{output:?}");
        output
    };
    let gap = vec![read(&file), (5, File::open(&file).expect("ours").into())];
    let gap = refused(&["--preserve-fds", "3"], gap).exits(125).err();
    assert!(gap.contains("descriptor 4 is not open: open it"), "{gap}");
    let many = refused(&["--preserve-fds", "65"], Vec::new())
        .exits(125)
        .err();
    assert!(many.contains("at most 64"), "{many}");
    let folder = vec![read(&bed.dir().to_owned())];
    let folder = refused(&["--preserve-fds", "1"], folder).exits(125).err();
    assert!(folder.contains("descriptor 3, a directory"), "{folder}");
    let detached = vec![read(&file)];
    let detached = refused(&["--detach", "--preserve-fds", "1"], detached).exits(2);
    assert!(detached.err().contains("--detach"), "{detached:?}");
    assert!(sessions(&bed).is_empty(), "nothing was begun");

    // A command that does not exist does not consume any input.
    let mut whole = File::open(&file).expect("ours");
    let given = whole.try_clone().expect("ours").into();
    let words = ["container", "exec", "--preserve-fds", "1", "c", "/bin/nope"];
    let missing = with(bed.cli(&words), vec![(3, given)]);
    run(missing, Input::Null, limit()).exits(127);
    let mut text = String::new();
    whole.read_to_string(&mut text).expect("ours");
    assert_eq!(text, "words");
    bed.rust_kata(&["container", "rm", "--force", "--time", "0", "c"])
        .ok();
}

#[test]
fn run_and_start_pass_them_on_to_the_init() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let file = bed.fresh("file");
    fs::write(&file, "to the init").expect("the bed is ours");
    let rootfs = bed.rootfs();
    let script = "cat <&3 >&4; test $(ls /proc/self/fd | wc -l) = 6 && exit 6";
    let words = |first: &[&str]| {
        let (drain, sink) = std::io::pipe().expect("a pipe");
        let mut command = bed.cli(first);
        if first[0] == "run" {
            command.arg(&rootfs).args(["--", "sh", "-c", script]);
        }
        let command = with(command, vec![read(&file), (4, sink.into())]);
        let running = Running::spawn(command, Input::Null);
        let said = Capture::of(drain);
        let output = running.finish(limit());
        (output, said.finish(limit()).text())
    };
    let run = ["run", "--name", "c", "--preserve-fds", "2", "--rootfs"];
    let (output, said) = words(&run);
    output.exits(6);
    assert_eq!(said, "to the init");

    // Each start passes them again, also with another owner; without an attached client there
    // are none.
    let (output, said) = words(&["start", "--attach", "--preserve-fd", "3,4", "c"]);
    output.exits(6);
    assert_eq!(said, "to the init");
    let (output, said) = words(&["start", "--preserve-fds", "2", "c"]);
    assert!(output.exits(125).err().contains("--attach"));
    assert_eq!(said, "");
    bed.rust_kata(&["container", "rm", "c"]).ok();
}
