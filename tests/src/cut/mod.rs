//! Power cuts at exact moments: every change of the file system by `rust-kata` is announced
//! before it is made. At a chosen change the process is killed, or all processes of the bed.
//!
//! ```text
//! test ─ run(command) ─▶ filtered thread ─ fork ─▶ rust-kata ─▶ its owner ─▶ VM
//!   │                     seccomp filter, inherited by all │ write, rename …
//!   └─ arm(cut) ─────────▶ listener ◀── notification ──────┘
//!                             ├─ counts it and lets it continue, or
//!                             └─ kills; the others cannot continue, since all wait here
//! ```
//!
//! Until the listener answers, other processes under the filter cannot change files, either:
//! the files at the cut are those after a power cut. With [`Cut::lossy`], changes that were not
//! synced are lost in addition (`cut/loss.rs`).

mod call;
mod loss;
mod notify;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};

pub use self::call::{Call, Kind};
use self::loss::Unsynced;
use self::notify::Listener;
use crate::dist;
use crate::process;
use crate::run::{Input, Running};

/// The place and the kind of a cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The number of the change before which to cut, counted from 1.
    pub at: usize,
    /// Whether all processes are killed, VMs included, as in a power cut; otherwise only the
    /// process that was about to make the change.
    pub all: bool,
    /// Whether changes that were not synced are lost. Only with `all`.
    pub lossy: bool,
}

/// The changes since [`Supervisor::arm`].
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The changes, in order; the last one is that of the cut.
    pub calls: Vec<Call>,
    /// Whether it was cut.
    pub cut: bool,
}

#[derive(Default)]
struct State {
    seen: Seen,
    cut: Option<Cut>,
    unsynced: Unsynced,
    /// Whether all processes under the filter have ended.
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The text that marks the processes of the bed.
    marker: PathBuf,
    roots: Vec<PathBuf>,
}

/// Runs commands and cuts them, together with all processes that they start.
pub struct Supervisor {
    shared: Arc<Shared>,
    spawn: Option<Sender<(Command, Sender<Running>)>>,
}

impl Supervisor {
    /// Watches changes below `roots`. A power cut kills the processes with `marker` in their
    /// environment.
    pub fn new(marker: &Path, roots: &[PathBuf]) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            marker: marker.to_owned(),
            roots: roots.to_vec(),
        });
        let (spawn, commands) = channel::<(Command, Sender<Running>)>();
        let (ready, listener) = channel();
        // The filter applies to this thread and its children; the listener's descriptor belongs
        // to the whole process.
        std::thread::spawn(move || {
            let _ = ready.send(Listener::install(call::WATCHED));
            for (command, started) in commands {
                let _ = started.send(Running::spawn(command, Input::Null));
            }
        });
        let listener = listener.recv().expect("the thread lives");
        let listener = listener.unwrap_or_else(|e| panic!("seccomp user notification: {e}"));
        let theirs = shared.clone();
        std::thread::spawn(move || theirs.listen(&listener));
        Self {
            shared,
            spawn: Some(spawn),
        }
    }

    /// Starts a command.
    pub fn start(&self, command: Command) -> Running {
        let (started, running) = channel();
        let spawn = self.spawn.as_ref().expect("not yet dropped");
        spawn.send((command, started)).expect("the thread lives");
        running.recv().expect("the command was started")
    }

    /// Forgets the changes so far, and cuts as requested from now on.
    pub fn arm(&self, cut: Option<Cut>) {
        let mut state = self.shared.lock();
        state.seen = Seen::default();
        state.cut = cut;
    }

    /// The changes since [`Supervisor::arm`]; ends the cutting.
    pub fn disarm(&self) -> Seen {
        let mut state = self.shared.lock();
        state.cut = None;
        std::mem::take(&mut state.seen)
    }

    /// Kills all processes of the bed now, and undoes what is not synced.
    pub fn power_cut(&self, lossy: bool) {
        let mut state = self.shared.lock();
        self.shared.kill_all();
        if lossy {
            std::mem::take(&mut state.unsynced).lose(&self.shared.roots);
        }
    }

    /// Waits until all started processes have ended; returns whether they did within `limit`.
    /// No other can be started afterwards.
    pub fn settled(&mut self, limit: Duration) -> bool {
        self.spawn = None;
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, limit, |state| !state.over);
        !waited.expect("no poison").1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn listen(&self, listener: &Listener) {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.expect("poll of a listener"),
            };
            if fds[0].revents().contains(PollFlags::IN) {
                // A process that was killed meanwhile has no request any more.
                if let Some(request) = listener.receive() {
                    self.hear(&request);
                    listener.go_on(&request);
                }
            } else {
                break;
            }
        }
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn hear(&self, request: &libc::seccomp_notif) {
        let Some(call) = Call::of(request) else {
            return;
        };
        let ours = self.roots.iter().any(|root| call.path.starts_with(root));
        // Logs are not state.
        let log = call.kind == Kind::Write && call.path.extension().is_some_and(|e| e == "log");
        if !ours || log || !call.is_of(dist::CLI) {
            return;
        }
        let mut state = self.lock();
        state.seen.calls.push(call.clone());
        let cut = state.cut.filter(|cut| cut.at == state.seen.calls.len());
        let Some(cut) = cut else {
            state.unsynced.note(&call);
            return;
        };
        state.seen.cut = true;
        state.cut = None;
        if cut.all {
            self.kill_all();
            if cut.lossy {
                std::mem::take(&mut state.unsynced).lose(&self.roots);
            }
        } else {
            process::signal(call.process, Signal::SIGKILL);
            // Its threads wait for an answer, or are about to: they die before they get one.
            process::wait_gone(call.process, Duration::from_secs(10));
        }
    }

    fn kill_all(&self) {
        let marker = self.marker.to_str().expect("an ASCII path");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut alive = process::marked(marker);
            // The processes of the harness are not part of the test.
            alive.retain(|p| !p.is("containerd") && !p.is("ctr") && p.pid != std::process::id());
            if alive.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "they go on: {alive:?}");
            for process in &alive {
                process::signal(process.pid, Signal::SIGKILL);
            }
            for process in &alive {
                process::wait_gone(process.pid, Duration::from_secs(10));
            }
        }
    }
}
