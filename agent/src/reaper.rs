//! The one place that waits for children.
//!
//! PID 1 is the parent of its helpers, of every container process once its
//! helper has gone, and of all orphans. A pid that somebody watches gets its
//! exit delivered; every other zombie is simply reaped.
//!
//! There is no race between a process ending and its being watched: a helper
//! is spawned and entered into the table under one lock, and a container's
//! process stays the child of its helper, which ends only after the agent has
//! called `watch` (see `spawn`).

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Shell convention: the exit code, or 128 + the signal.
    pub status: u32,
    /// Ended by SIGKILL.
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

/// Delivers the exits of the children that somebody watches.
#[derive(Default)]
pub struct Reaper {
    watched: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
}

impl Reaper {
    /// Starts reaping, driven by SIGCHLD.
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

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Exit>>> {
        self.watched.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Delivers the exit of `pid`, which must not have been reaped yet.
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.table().insert(pid, sender);
        receiver
    }

    /// Spawns and watches a child of our own.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(i32, oneshot::Receiver<Exit>)> {
        let mut table = self.table();
        // Dropping the handle neither waits nor kills.
        let pid = command.spawn()?.id() as i32;
        let (sender, receiver) = oneshot::channel();
        table.insert(pid, sender);
        Ok((pid, receiver))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    // One test: the reaper waits for every child of the test process.
    #[tokio::test]
    async fn delivers_codes_and_signals_even_of_children_that_end_at_once() {
        let reaper = Reaper::start().unwrap();

        let mut exits = Vec::new();
        for code in 0..50 {
            exits.push(reaper.spawn(&mut shell(&format!("exit {code}"))).unwrap().1);
        }
        for (code, exit) in exits.into_iter().enumerate() {
            assert_eq!(exit.await.unwrap().status, code as u32);
        }

        let (_, exit) = reaper.spawn(&mut shell("kill -9 $$")).unwrap();
        assert_eq!(
            exit.await.unwrap(),
            Exit {
                status: 137,
                killed: true
            }
        );
        let (_, exit) = reaper.spawn(&mut shell("kill -40 $$")).unwrap();
        assert_eq!(exit.await.unwrap().status, 168);
        assert!(reaper.table().is_empty());
    }
}
