//! The pod's shared pid namespace. Its first process only keeps it and reaps orphans.
//!
//! That process is a fork of the agent, without an exec: under emulation the load of a program
//! would take longer than all other steps for the namespace.

use std::fs::File;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Error, Result};

/// Makes the namespace and binds it to `kept`.
pub fn make(kept: &Path) -> Result<()> {
    let inside = || -> Result<()> {
        // Affects only the processes that this thread forks, pid_namespaces(7).
        unshare(CloneFlags::CLONE_NEWPID).what("make the pod's pid namespace")?;
        // SAFETY: the agent has other threads, so the child may make system calls only;
        // `first_process` does so.
        let pid = match unsafe { libc::fork() } {
            0 => first_process(),
            -1 => {
                return Err(std::io::Error::last_os_error())
                    .what("start the first process of the pod's pid namespace");
            }
            pid => pid,
        };
        File::create(kept).path(kept)?;
        let namespace = format!("/proc/{pid}/ns/pid");
        let no = None::<&str>;
        mount(Some(namespace.as_str()), kept, no, MsFlags::MS_BIND, no)
            .what("keep the pod's pid namespace")
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(Error::Panicked("making the pid namespace")))
}

/// Reaps until the VM ends. Processes of the namespace cannot send its first process a signal
/// without a handler.
fn first_process() -> ! {
    // SAFETY: system calls only, with memory of this frame; the closed descriptors are this
    // process's own copies.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pod".as_ptr());
        libc::close_range(0, libc::c_uint::MAX, 0);
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut child);
        libc::sigaddset(&mut child, libc::SIGCHLD);
        // SIGCHLD is blocked, so that a signal between the two calls is kept.
        libc::sigprocmask(libc::SIG_SETMASK, &child, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            let mut caught = 0;
            libc::sigwait(&child, &mut caught);
        }
    }
}
