//! Child processes, for tests of what a process does to itself; and helpers that a test plays.

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::guest::reaper::{self, Reaper};
use crate::launch::helper::{Answer, MESSAGE, Request, receive_with_fds, send_with_fds};
use crate::launch::spawn::Spawner;
use crate::launch::zygote::Zygote;
use crate::stdio::stream::pipe;

/// The exit code of a child that panicked; its output ends with the message.
const PANICKED: i32 = 101;

/// Set in a process that runs one test alone; nextest sets the other.
const ALONE: &str = "RUST_KATA_TEST_ALONE";
const NEXTEST: &str = "NEXTEST";

/// Whether the calling test is alone in its process. If not, runs it in a process of its own,
/// and fails as it does. A test that forks must be alone: the locks that another test holds
/// during a fork stay locked in the child.
#[track_caller]
pub fn is_alone() -> bool {
    if [ALONE, NEXTEST]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        return true;
    }
    let thread = std::thread::current();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", thread.name().unwrap(), "--test-threads=1"])
        .env(ALONE, "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{said}");
    false
}

/// Ends a test that is not alone, after [`is_alone`] has run it.
macro_rules! alone {
    () => {
        if !$crate::launch::testing::is_alone() {
            return;
        }
    };
}
pub(crate) use alone;

/// The seconds that a child may take.
const LIMIT: u32 = 60;

/// Runs `work` in a child process with one thread, without stdin; for tests that are `alone`.
/// Returns its end, and what it
/// and the program that it may become have written to stdout and stderr.
pub fn forked(work: impl FnOnce()) -> (WaitStatus, String) {
    let _children = reaper::children();
    let (read, write) = pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    // SAFETY: the test is alone: no other thread holds a lock that would stay locked in the
    // child, which ends below.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            for (from, to) in [
                (null.as_raw_fd(), 0),
                (write.as_raw_fd(), 1),
                (write.as_raw_fd(), 2),
            ] {
                // SAFETY: all are open.
                unsafe { libc::dup2(from, to) };
            }
            drop(write);
            // SAFETY: no memory is involved.
            unsafe { libc::alarm(LIMIT) };
            std::panic::set_hook(Box::new(|_| {}));
            let done = catch_unwind(AssertUnwindSafe(work));
            if let Err(panic) = &done {
                say(&message(panic.as_ref()));
            }
            // SAFETY: ends the process; nothing is flushed that its parent would flush again.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { PANICKED }) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut said = Vec::new();
            File::from(read).read_to_end(&mut said).unwrap();
            let end = waitpid(child, None).unwrap();
            (end, String::from_utf8_lossy(&said).into_owned())
        }
    }
}

/// The same, for work that must succeed; returns what it writes.
#[track_caller]
pub fn forked_well(work: impl FnOnce()) -> String {
    let (end, said) = forked(work);
    assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}: {said}");
    said
}

/// Writes to the stdout of a child; libtest keeps what is printed.
pub fn say(text: &str) {
    // SAFETY: the text lives through the call.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

/// A spawner whose requests for helpers end here.
pub fn played_spawner() -> (Spawner, OwnedFd) {
    let (zygote, requests) = Zygote::played();
    let reaper = Arc::new(Reaper::default());
    (Spawner { zygote, reaper }, requests)
}

/// What a helper was sent: the verb, the numbers of the descriptors, their inodes, and
/// whether it was released in the end.
pub type Sent = (&'static str, Vec<RawFd>, Vec<u64>, bool);

/// Plays one helper, which gives this answer with this descriptor.
pub fn played_helper(
    requests: OwnedFd,
    answer: Option<Answer>,
    master: Option<OwnedFd>,
) -> JoinHandle<Sent> {
    std::thread::spawn(move || {
        let (n, mut fds) = receive_with_fds(requests.as_raw_fd(), &mut [0; 8]).unwrap();
        assert_eq!((n, fds.len()), (1, 1));
        let control = fds.pop().unwrap();
        let mut buffer = vec![0; MESSAGE];
        let (n, fds) = receive_with_fds(control.as_raw_fd(), &mut buffer).unwrap();
        let (request, numbers): (Request, Vec<RawFd>) =
            serde_json::from_slice(&buffer[..n]).unwrap();
        let inodes = fds
            .into_iter()
            .map(|fd| File::from(fd).metadata().unwrap().ino());
        let inodes = inodes.collect();
        let Some(answer) = answer else {
            return (request.verb(), numbers, inodes, false);
        };
        let json = serde_json::to_vec(&answer).unwrap();
        let master: Vec<RawFd> = master.iter().map(AsRawFd::as_raw_fd).collect();
        send_with_fds(control.as_raw_fd(), &json, &master).unwrap();
        let (n, _) = receive_with_fds(control.as_raw_fd(), &mut buffer).unwrap();
        (request.verb(), numbers, inodes, &buffer[..n] == b"k")
    })
}
