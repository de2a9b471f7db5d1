//! A running process of a VM, watched by its pidfd.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Tail;
use super::fork::Forked;
use super::recorded::start_time;
use crate::vm_process::{ExitStatus, Role, VmExit, VmProcess};

/// A child process. It is killed when this is dropped.
pub(crate) struct Process {
    record: VmProcess,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    exit: watch::Receiver<Option<VmExit>>,
}

impl Process {
    /// Watches a child; a task reaps it as soon as it ends.
    pub(super) fn watch(role: Role, child: Forked, tail: Tail) -> io::Result<Process> {
        match Process::open(role, &child) {
            Ok((record, pidfd)) => {
                let pidfd = Arc::new(pidfd);
                let (sender, exit) = watch::channel(None);
                tokio::spawn(reap(role, Arc::clone(&pidfd), tail, sender));
                Ok(Process {
                    record,
                    pidfd,
                    exit,
                })
            }
            Err(err) => {
                child.discard();
                Err(err)
            }
        }
    }

    fn open(role: Role, child: &Forked) -> io::Result<(VmProcess, AsyncFd<OwnedFd>)> {
        // The child was not reaped yet, so the id is still valid.
        let pid = child.pid.as_raw_nonzero().get().unsigned_abs();
        let pidfd = child.pidfd.try_clone()?;
        let record = VmProcess {
            role,
            pid,
            start_time: start_time(pid)?,
        };
        // SAFETY: an owned descriptor stays the same and open while it is owned.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok((record, pidfd))
    }

    /// Its identity, for the record on disk.
    pub fn record(&self) -> VmProcess {
        self.record.clone()
    }

    /// Sends SIGKILL. A process that has ended already is not an error.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Resolves when the process has been reaped.
    pub async fn exited(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let end = exit.wait_for(Option::is_some).await.ok();
        end.and_then(|exit| exit.clone()).unwrap_or(VmExit {
            process: self.record.role,
            status: ExitStatus::Unknown,
            reason: "its watcher is gone".into(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn reap(
    role: Role,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    tail: Tail,
    exit: watch::Sender<Option<VmExit>>,
) {
    let status = loop {
        let Ok(mut ready) = pidfd.readable().await else {
            break ExitStatus::Unknown;
        };
        match waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => {
                break match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => ExitStatus::Code(code),
                    (None, Some(signal)) => ExitStatus::Signal(signal),
                    (None, None) => ExitStatus::Unknown,
                };
            }
            Ok(None) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
            }
            Err(_) => break ExitStatus::Unknown,
        }
    };
    let reason = tail.last_lines().await;
    log::debug!("{role} ended with {status}");
    exit.send_replace(Some(VmExit {
        process: role,
        status,
        reason,
    }));
}
