//! Reaps all children. Other code does not wait for children.
//!
//! PID 1 becomes the parent of every container process when its helper ends, and of all
//! orphans. The exit of a watched pid is delivered; other zombies are only reaped.
//!
//! The end of a process cannot be missed before the watch: the process stays the child of its
//! helper, which ends only after the agent has called `watch` (see `spawn`).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::sync::lock;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Shell convention: the exit code, or 128 + the signal.
    pub status: u32,
    /// SIGKILL ended it.
    pub killed: bool,
}

impl Exit {
    fn from_raw(raw: libc::c_int) -> Exit {
        if libc::WIFSIGNALED(raw) {
            let signal = libc::WTERMSIG(raw);
            Exit {
                status: 128 + signal as u32,
                killed: signal == libc::SIGKILL,
            }
        } else {
            Exit {
                status: libc::WEXITSTATUS(raw) as u32,
                killed: false,
            }
        }
    }
}

/// Delivers the exits of watched children.
#[derive(Default)]
pub struct Reaper {
    watched: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
}

impl Reaper {
    /// Starts the reaper; SIGCHLD wakes it.
    pub fn start() -> io::Result<Arc<Reaper>> {
        let reaper = Arc::new(Reaper::default());
        let children = signal(SignalKind::child())?;
        tokio::spawn(reaper.clone().run(children));
        Ok(reaper)
    }

    async fn run(self: Arc<Self>, mut children: Signal) {
        loop {
            self.reap();
            if children.recv().await.is_none() {
                return;
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<Exit>>> {
        lock(&self.watched)
    }

    /// Delivers the exit of `pid`, which must not have been reaped yet.
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.table().insert(pid, sender);
        receiver
    }

    fn reap(&self) {
        loop {
            let mut raw = 0;
            let mut table = self.table();
            // SAFETY: `raw` is a valid place for the status.
            // nix would lose a child ended by a real-time signal.
            let pid = unsafe { libc::waitpid(-1, &mut raw, libc::WNOHANG | libc::__WALL) };
            if pid <= 0 {
                return;
            }
            let watcher = table.remove(&pid);
            drop(table);
            if let Some(watcher) = watcher {
                let _ = watcher.send(Exit::from_raw(raw));
            }
        }
    }
}

/// Held by tests that wait for children: the reaper's own test takes every child of the process.
#[cfg(test)]
pub fn children() -> MutexGuard<'static, ()> {
    static CHILDREN: Mutex<()> = Mutex::new(());
    lock(&CHILDREN)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that runs `script` once its stdin is closed.
    fn child(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read _; {script}")]);
        command.stdin(Stdio::piped()).spawn().unwrap()
    }

    async fn end(reaper: &Reaper, mut child: Child) -> Exit {
        let exit = reaper.watch(child.id() as i32);
        drop(child.stdin.take());
        exit.await.unwrap()
    }

    // One test for all cases, since the reaper waits for every child of the test process.
    #[allow(clippy::await_holding_lock)] // the test has a thread of its own
    #[tokio::test]
    async fn delivers_codes_and_signals() {
        let _children = children();
        let reaper = Reaper::start().unwrap();
        // One that lives on holds nobody up.
        let idle = child("exit 9");

        for code in [0, 1, 42, 255] {
            let exit = end(&reaper, child(&format!("exit {code}"))).await;
            assert_eq!((exit.status, exit.killed), (code, false));
        }
        let exit = end(&reaper, child("kill -9 $$")).await;
        assert_eq!((exit.status, exit.killed), (137, true));
        let exit = end(&reaper, child("kill -40 $$")).await;
        assert_eq!((exit.status, exit.killed), (168, false));
        let exit = end(&reaper, idle).await;
        assert_eq!((exit.status, exit.killed), (9, false));
        assert!(reaper.table().is_empty());
    }
}
