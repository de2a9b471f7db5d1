//! The pod's pid namespace, where its containers share one: its first process only
//! keeps it and reaps orphans.
//!
//! That process is a fork of the agent that runs no other program: loading one
//! would cost a VM under emulation more than all the rest of the namespace.

use std::fs::File;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Error, Result};

/// Makes the namespace and keeps it at `kept`.
pub fn make(kept: &Path) -> Result<()> {
    let inside = || -> Result<()> {
        // Affects only the processes that this thread forks, pid_namespaces(7).
        unshare(CloneFlags::CLONE_NEWPID).what("make the pod's pid namespace")?;
        // SAFETY: the agent has other threads, so the child may only make
        // system calls, which is all that `first_process` does.
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

/// Reaps until the VM ends. As the first of its namespace it is sent no signal
/// from within that it does not handle.
fn first_process() -> ! {
    // SAFETY: system calls alone, with memory of this frame; the descriptors
    // that are closed are this process's own copies.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pod".as_ptr());
        libc::close_range(0, libc::c_uint::MAX, 0);
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut child);
        libc::sigaddset(&mut child, libc::SIGCHLD);
        // Blocked, so that a signal between the two calls is kept.
        libc::sigprocmask(libc::SIG_SETMASK, &child, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            let mut caught = 0;
            libc::sigwait(&child, &mut caught);
        }
    }
}
