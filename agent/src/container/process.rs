//! A process that the host knows: a container's init or an exec session.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::cgroup::oom::OomWatch;
use crate::error::{Context, Error, Result};
use crate::guest::reaper::Exit;
use crate::launch::spawn::Started;
use crate::stdio::{Connections, Stdio, Written};
use crate::sync::lock;

/// The exit status of a process that never ran.
const UNKNOWN: u32 = 255;

/// The end of a process, after all its output has been written to its streams.
#[derive(Debug, Clone)]
pub struct Ended {
    pub status: u32,
    pub oom_killed: bool,
    pub written: Written,
}

enum Phase {
    /// Not started yet; its streams are connected.
    Recorded(Connections),
    Starting,
    Running {
        pid: i32,
        pidfd: OwnedFd,
    },
    Over,
}

/// A process, from its request to its removal.
pub struct Process {
    container: String,
    /// Empty for the init.
    exec_id: String,
    phase: Mutex<Phase>,
    stdio: Mutex<Option<Arc<Stdio>>>,
    /// The size of its terminal, set before the start. Locked after `stdio`.
    size: Mutex<Option<(u16, u16)>>,
    ended: watch::Sender<Option<Ended>>,
}

impl Process {
    pub fn new(container: &str, exec_id: &str, connections: Connections) -> Process {
        Process {
            container: container.to_owned(),
            exec_id: exec_id.to_owned(),
            phase: Mutex::new(Phase::Recorded(connections)),
            stdio: Mutex::new(None),
            size: Mutex::new(None),
            ended: watch::Sender::new(None),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match self.exec_id.as_str() {
            "" => format!("container {}", self.container),
            exec => format!("exec {exec} of container {}", self.container),
        }
    }

    fn state(&self) -> &'static str {
        match &*lock(&self.phase) {
            Phase::Recorded(_) => "not started",
            Phase::Starting => "starting",
            Phase::Running { .. } => "running",
            Phase::Over => "stopped",
        }
    }

    /// The pid while it runs.
    pub fn pid(&self) -> Option<i32> {
        match &*lock(&self.phase) {
            Phase::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// True once it has ended, even if some of its output is not sent yet.
    pub fn is_over(&self) -> bool {
        matches!(&*lock(&self.phase), Phase::Over)
    }

    /// Takes the connections for the start.
    pub fn begin(&self) -> Result<Connections> {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, Phase::Starting) {
            Phase::Recorded(connections) => Ok(connections),
            other => {
                *phase = other;
                drop(phase);
                Err(Error::State {
                    what: self.name(),
                    state: self.state(),
                    wanted: "not started",
                })
            }
        }
    }

    /// Records that the start has failed: ends all waits for the process.
    pub fn fail(&self) {
        *lock(&self.phase) = Phase::Over;
        self.ended.send_replace(Some(Ended {
            status: UNKNOWN,
            oom_killed: false,
            written: Written::default(),
        }));
    }

    /// Records that it runs, and follows it to its end. `after` runs after its end, before any
    /// wait returns.
    pub fn run(
        self: &Arc<Self>,
        started: Started,
        stdio: Stdio,
        oom: &Arc<OomWatch>,
        after: impl FnOnce() + Send + 'static,
    ) {
        let stdio = Arc::new(stdio);
        {
            let mut slot = lock(&self.stdio);
            // The size was set while the helper ran. The process gets no signal if the terminal
            // has this size already.
            if let Some((width, height)) = self.asked_size()
                && let Err(e) = stdio.resize(width, height)
            {
                log::warn!("the terminal of {} keeps its size: {e}", self.name());
            }
            *slot = Some(stdio.clone());
        }
        *lock(&self.phase) = Phase::Running {
            pid: started.pid,
            pidfd: started.pidfd,
        };
        let process = self.clone();
        let oom = oom.clone();
        let kills_before = oom.kills();
        tokio::spawn(async move {
            let exit = started.exit.await.unwrap_or(Exit {
                status: UNKNOWN,
                killed: false,
            });
            *lock(&process.phase) = Phase::Over;
            // The OOM event must precede the exit that it explains.
            let kills = oom.check();
            after();
            stdio.close_inputs();
            let written = stdio.drain().await;
            let is_init = process.exec_id.is_empty();
            process.ended.send_replace(Some(Ended {
                status: exit.status,
                // A container counts as OOM-killed for any kill in it, an exec session only if
                // it was killed itself.
                oom_killed: kills > kills_before && (is_init || exit.killed),
                written,
            }));
        });
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            // The sender lives as long as `self`.
            _ => unreachable!("a process is waited for through a reference"),
        }
    }

    pub fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid("signal", signal, "1 to 64"));
        }
        match &*lock(&self.phase) {
            Phase::Running { pidfd, .. } => {
                match send_signal(pidfd, signal) {
                    // It has ended, but is not reaped yet.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => self.finished(),
                    other => other.what(format!("signal {signal}")),
                }
            }
            Phase::Over => self.finished(),
            Phase::Recorded(_) | Phase::Starting => Err(Error::State {
                what: self.name(),
                state: "not started",
                wanted: "running",
            }),
        }
    }

    fn finished(&self) -> Result<()> {
        Err(Error::Finished {
            container: self.container.clone(),
            process: match self.exec_id.as_str() {
                "" => "init".into(),
                exec => exec.to_owned(),
            },
        })
    }

    /// The initial size of its terminal, if given.
    pub fn asked_size(&self) -> Option<(u16, u16)> {
        *lock(&self.size)
    }

    /// Sets the size of its terminal. Before the start, sets the initial size.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        let stdio = lock(&self.stdio);
        let is_to_come = matches!(&*lock(&self.phase), Phase::Recorded(_) | Phase::Starting);
        let resized = match &*stdio {
            Some(stdio) => stdio.resize(width, height).what("resize the terminal")?,
            None if is_to_come => {
                *lock(&self.size) = Some((width, height));
                true
            }
            None => false,
        };
        drop(stdio);
        match resized {
            true => Ok(()),
            false => Err(Error::State {
                what: self.name(),
                state: "without a terminal",
                wanted: "running on one",
            }),
        }
    }

    /// Stops serving its streams, even if other processes hold the other ends.
    pub fn disconnect(&self) {
        if let Some(stdio) = lock(&self.stdio).take() {
            stdio.stop();
        }
    }
}

fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the pidfd is open; without `info` no memory is involved.
    match unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_set_before_the_start_is_kept_for_it() {
        let process = Process::new("c", "e", Connections::default());
        assert_eq!(process.asked_size(), None);

        process.resize(80, 24).unwrap();
        let begun = process.begin().unwrap();
        process.resize(132, 50).unwrap();

        drop(begun);
        assert_eq!(process.asked_size(), Some((132, 50)));
        process.fail();
        let refused = process.resize(80, 24);
        assert!(matches!(
            refused,
            Err(Error::State {
                state: "without a terminal",
                ..
            })
        ));
    }
}
