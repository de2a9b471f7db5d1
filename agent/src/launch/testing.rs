//! Child processes, for tests of what a process does to itself.

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::guest::reaper;
use crate::stdio::stream::pipe;

/// The exit code of a child that panicked; its output ends with the message.
const PANICKED: i32 = 101;

/// The seconds that a child may take.
const LIMIT: u32 = 60;

/// Runs `work` in a child process with one thread, without stdin. Returns its end, and what it
/// and the program that it may become have written to stdout and stderr.
pub fn forked(work: impl FnOnce()) -> (WaitStatus, String) {
    let _children = reaper::children();
    let (read, write) = pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    // SAFETY: the child has the memory of this thread alone, and ends below. What it allocates
    // is safe with glibc, whose fork leaves no lock of its allocator held.
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
            // SAFETY: no memory is involved. The child may wait for a lock that another thread
            // held during the fork, such as that of a test that panics.
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
