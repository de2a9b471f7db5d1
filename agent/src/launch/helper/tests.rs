//! The helper's steps, each in a child process, since they change the process.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libcontainer::error::{ErrInvalidID, ErrInvalidSpec, MissingSpecError};
use libcontainer::oci_spec::OciSpecError;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde_json::{Value, json};

use super::*;
use crate::launch::testing::{alone, forked, forked_well, say};

/// The two ends of a control socket.
fn control() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

fn hooks(state: &Path, hooks: Value) -> Request {
    Request::Hooks {
        id: "c".into(),
        state: state.into(),
        hooks: serde_json::from_value(hooks).unwrap(),
    }
}

/// Sends a request with three descriptors as stdio, and more under these numbers.
fn ask(socket: &OwnedFd, request: &Request, more: &[(RawFd, &File)]) {
    let null = File::open("/dev/null").unwrap();
    let stdio = (0..3).map(|number| (number, null.as_raw_fd()));
    let more = more
        .iter()
        .map(|(number, file)| (*number, file.as_raw_fd()));
    let (numbers, fds): (Vec<RawFd>, Vec<RawFd>) = stdio.chain(more).unzip();
    let json = serde_json::to_vec(&(request, numbers)).unwrap();
    send_with_fds(socket.as_raw_fd(), &json, &fds).unwrap();
}

fn answered(socket: &OwnedFd) -> (Answer, Vec<OwnedFd>) {
    let mut buffer = vec![0; MESSAGE];
    let (n, fds) = receive_with_fds(socket.as_raw_fd(), &mut buffer).unwrap();
    (serde_json::from_slice(&buffer[..n]).unwrap(), fds)
}

/// The answer to a request of a whole helper, which then ends.
fn helped(request: &Request) -> Answer {
    let (ours, theirs) = control();
    ask(&ours, request, &[]);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let answer = answered(&ours);
            send_with_fds(ours.as_raw_fd(), b"k", &[]).unwrap();
            answer.0
        });
        let (end, said) = forked(|| main(theirs.try_clone().unwrap()));
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}: {said}");
        answer.join().unwrap()
    })
}

fn container(root: &Path, status: ContainerStatus) -> PathBuf {
    let folder = state_folder(root, "c");
    fs::create_dir_all(&folder).unwrap();
    let pid = Some(std::process::id() as i32);
    let state = State::new("c", status, pid, "/bundle".into());
    state.save(&folder).unwrap();
    folder
}

#[test]
fn requests_are_named_by_their_verbs() {
    let (id, folder) = (String::from("c"), PathBuf::from("/f"));
    let create = Request::Create {
        id: id.clone(),
        folder: folder.clone(),
        state: folder.clone(),
        terminal: false,
    };
    let exec = Request::Exec {
        id,
        folder: folder.clone(),
        state: folder.clone(),
        terminal: true,
    };
    let verbs = [create, exec, hooks(&folder, json!([]))];
    assert_eq!(
        verbs.map(|request| request.verb()),
        ["create", "exec", "hooks"]
    );
}

#[test]
fn a_helper_runs_hooks_with_the_state_of_the_container() {
    alone!();
    let folder = tempfile::tempdir().unwrap();
    container(folder.path(), ContainerStatus::Stopped);
    let output = folder.path().join("output");
    let script = format!("cat > {}; echo $A >> {0}", output.display());
    let request = hooks(
        folder.path(),
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1", "PATH=/bin:/usr/bin"] }]),
    );

    assert_eq!(helped(&request).unwrap().pid, 0);

    let output = fs::read_to_string(output).unwrap();
    let (state, variable) = output.split_at(output.rfind('}').unwrap() + 1);
    assert_eq!(variable, "1\n");
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(
        (&state["id"], &state["bundle"]),
        (&json!("c"), &json!("/bundle"))
    );
}

#[test]
fn a_helper_answers_with_what_failed() {
    alone!();
    let folder = tempfile::tempdir().unwrap();
    let unknown = helped(&hooks(folder.path(), json!([]))).unwrap_err();
    assert_eq!(unknown.kind, Kind::Internal);
    container(folder.path(), ContainerStatus::Running);
    let failing = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] }]);
    let failed = helped(&hooks(folder.path(), failing)).unwrap_err();
    assert_eq!(failed.kind, Kind::Internal);
    assert!(failed.message.contains('3'), "{failed:?}");
    for request in [
        Request::Create {
            id: "c".into(),
            folder: folder.path().into(),
            state: folder.path().into(),
            terminal: false,
        },
        Request::Exec {
            id: "c".into(),
            folder: folder.path().into(),
            state: folder.path().into(),
            terminal: false,
        },
    ] {
        let incomplete = helped(&request).unwrap_err();
        assert_eq!(incomplete.kind, Kind::Internal, "{}", request.verb());
        assert!(
            incomplete.message.contains("No such file"),
            "{incomplete:?}"
        );
    }
}

#[test]
fn a_request_must_have_the_descriptors_that_it_numbers() {
    let (ours, theirs) = control();
    let request = hooks(Path::new("/s"), json!([]));
    let json = serde_json::to_vec(&(request, [0, 1, 2])).unwrap();
    send_with_fds(ours.as_raw_fd(), &json, &[ours.as_raw_fd()]).unwrap();
    let problem = receive(&theirs).unwrap_err().to_string();
    assert_eq!(problem, "1 of 3 descriptors came");
    drop(ours);
    let ended = receive(&theirs).unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn descriptors_get_their_numbers_and_only_stdio_outlives_an_exec() {
    alone!();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| File::create(folder.path().join(name)).unwrap();
    let (first, second) = (file("first"), file("second"));
    let (ours, theirs) = control();
    let request = hooks(Path::new("/s"), json!([]));
    ask(&ours, &request, &[(3, &first), (1023, &second)]);
    let inodes = [&first, &second].map(|file| file.metadata().unwrap().ino());

    let seen = forked_well(|| {
        let out = duplicate_high(&io::stdout()).unwrap();
        let control = duplicate_high(&theirs).unwrap();
        receive(&control).unwrap();
        let of = |number: RawFd| {
            let inode = fs::metadata(format!("/proc/self/fd/{number}"))
                .unwrap()
                .ino();
            // SAFETY: no memory is involved.
            (inode, unsafe { libc::fcntl(number, libc::F_GETFD) })
        };
        let null = fs::metadata("/dev/null").unwrap().ino();
        let stdio = [0, 1, 2].map(of);
        let others = [3, 1023].map(of);
        // SAFETY: the descriptor is open.
        unsafe { libc::dup2(out.as_raw_fd(), 1) };
        assert_eq!(stdio, [(null, 0); 3]);
        assert_eq!(others, inodes.map(|inode| (inode, libc::FD_CLOEXEC)));
        say("all there");
    });

    assert_eq!(seen, "all there");
}

#[test]
fn a_panic_is_the_answer_of_the_helper_but_not_of_its_children() {
    alone!();
    let (ours, theirs) = control();
    let (faults, collected) = faults::collect().unwrap();
    forked_well(|| {
        report_panics(faults.clone(), theirs.as_raw_fd());
        // SAFETY: this process has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let _ = catch_unwind(AssertUnwindSafe(|| panic!("in a child")));
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
        let _ = catch_unwind(AssertUnwindSafe(|| panic!("in the helper")));
    });
    drop(theirs);

    let fault = answered(&ours).0.unwrap_err();
    assert_eq!(fault.kind, Kind::Internal);
    assert!(fault.message.starts_with("panic: ") && fault.message.contains("in the helper"));
    assert_eq!(
        receive_with_fds(ours.as_raw_fd(), &mut [0; 8]).unwrap().0,
        0
    );
    // The first of those that are forked explains the failure.
    let explained = collected.explain(Fault::invalid("nothing was reported"));
    assert!(explained.message.contains("in a child"), "{explained:?}");
}

#[test]
fn an_exec_works_on_a_running_copy_of_the_state() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let original = container(state.path(), ContainerStatus::Created);

    copy_state(state.path(), "c", folder.path()).unwrap();

    let status = |folder: &Path| State::load(folder).unwrap().status;
    assert_eq!(status(&original), ContainerStatus::Created);
    assert_eq!(status(&folder.path().join("c")), ContainerStatus::Running);
    assert_eq!(
        copy_state(state.path(), "d", folder.path())
            .unwrap_err()
            .kind,
        Kind::Internal
    );
}

#[test]
fn a_terminal_comes_through_a_socket_however_long_its_path() {
    alone!();
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(120));
    fs::create_dir(&deep).unwrap();
    assert!(ConsoleSocket::listen(&deep, false).unwrap().is_none());

    forked_well(|| {
        let console = ConsoleSocket::listen(&deep, true).unwrap().unwrap();
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        assert_eq!(console.path, deep.join(CONSOLE_SOCKET));
        std::env::set_current_dir(&deep).unwrap();
        let client = UnixStream::connect(CONSOLE_SOCKET).unwrap();
        let (mut master, slave) = UnixStream::pair().unwrap();
        send_with_fds(client.as_raw_fd(), b"/dev/ptmx", &[slave.as_raw_fd()]).unwrap();
        let path = console.path.clone();
        let mut received = UnixStream::from(console.accept().unwrap());
        assert!(!path.exists());
        received.write_all(b"hello").unwrap();
        drop((received, slave));
        let mut text = String::new();
        master.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let console = ConsoleSocket::listen(&deep, true).unwrap().unwrap();
        std::env::set_current_dir(&deep).unwrap();
        drop(UnixStream::connect(CONSOLE_SOCKET).unwrap());
        let nothing = console.accept().unwrap_err();
        assert_eq!(nothing.kind, Kind::Internal);
    });
}

#[test]
fn faults_of_the_request_are_told_from_those_of_the_guest() {
    for (error, kind) in [
        (
            LibcontainerError::InvalidSpec(ErrInvalidSpec::UnsupportedVersion),
            Kind::InvalidArgument,
        ),
        (
            LibcontainerError::MissingSpec(MissingSpecError::Args),
            Kind::InvalidArgument,
        ),
        (
            LibcontainerError::InvalidID(ErrInvalidID::Empty),
            Kind::InvalidArgument,
        ),
        (
            LibcontainerError::Spec(OciSpecError::Other("x".into())),
            Kind::InvalidArgument,
        ),
        (
            LibcontainerError::IncorrectStatus(ContainerStatus::Stopped),
            Kind::FailedPrecondition,
        ),
        (LibcontainerError::Exist, Kind::Internal),
        (LibcontainerError::NoDirectory, Kind::Internal),
    ] {
        let message = error.to_string();
        let fault = fault(error);
        assert_eq!(fault.kind, kind, "{message}");
        assert!(fault.message.starts_with(&message), "{fault:?}");
    }
}

#[test]
fn an_error_is_told_with_each_cause_once() {
    let cause = || io::Error::from_raw_os_error(libc::ENOENT);
    let once = "io error: No such file or directory (os error 2)";
    assert_eq!(chain(&LibcontainerError::OtherIO(cause())), once);
    // This error repeats its cause.
    let repeats = crate::error::Error::File {
        path: "/x".into(),
        source: cause(),
    };
    assert_eq!(
        chain(&repeats),
        "/x: No such file or directory (os error 2)"
    );
}

#[test]
fn late_hooks_are_those_after_the_start_and_after_the_end() {
    let spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.0.2",
        "hooks": {
            "prestart": [{ "path": "/prestart" }],
            "poststart": [{ "path": "/started" }],
            "poststop": [{ "path": "/stopped" }, { "path": "/gone" }],
        },
    }))
    .unwrap();
    let paths = |hooks: Vec<Hook>| hooks.iter().map(|h| h.path().clone()).collect::<Vec<_>>();
    let (started, stopped) = late_hooks(&spec);
    assert_eq!(paths(started), [Path::new("/started")]);
    assert_eq!(paths(stopped), [Path::new("/stopped"), Path::new("/gone")]);
    assert_eq!(late_hooks(&Spec::default()), (vec![], vec![]));
}
