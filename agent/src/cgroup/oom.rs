//! Watches a container's cgroup for OOM kills, and keeps the events until the host requests
//! them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use protos::agent::{Event, OomEvent};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cgroup::{Cgroup, EventsFile};
use crate::error::Result;
use crate::sync::lock;

/// The most events kept for the next call; more are lost.
const KEPT: usize = 1024;

/// The queue of events, in order.
pub struct Events {
    sender: mpsc::Sender<Event>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Event>>,
}

impl Events {
    pub fn new() -> Events {
        let (sender, receiver) = mpsc::channel(KEPT);
        Events {
            sender,
            receiver: tokio::sync::Mutex::new(receiver),
        }
    }

    fn push_oom(&self, container_id: &str) {
        let mut event = Event::new();
        event.set_oom(OomEvent {
            container_id: container_id.to_owned(),
            ..Default::default()
        });
        if self.sender.try_send(event).is_err() {
            log::warn!("too many unread events: an OOM event of {container_id} is lost");
        }
    }

    /// Waits for the next event.
    pub async fn next(&self) -> Event {
        match self.receiver.lock().await.recv().await {
            Some(event) => event,
            // The sender lives as long as `self`.
            None => unreachable!("the queue is open while it is asked"),
        }
    }
}

/// The OOM kills of one container.
pub struct OomWatch {
    id: String,
    cgroup: Cgroup,
    events: Arc<Events>,
    seen: AtomicU64,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl OomWatch {
    /// Starts the watch.
    pub fn start(id: &str, cgroup: &Cgroup, events: &Arc<Events>) -> Result<Arc<OomWatch>> {
        let changes = cgroup.memory_events()?;
        let watch = Arc::new(OomWatch {
            id: id.to_owned(),
            cgroup: cgroup.clone(),
            events: events.clone(),
            seen: AtomicU64::new(cgroup.oom_kills()),
            task: Mutex::new(None),
        });
        let task = tokio::spawn(watch.clone().follow(changes));
        *lock(&watch.task) = Some(task);
        Ok(watch)
    }

    /// One that looks at the cgroup when it is asked only.
    #[cfg(test)]
    pub fn idle(id: &str, cgroup: &Cgroup, events: &Arc<Events>) -> Arc<OomWatch> {
        Arc::new(OomWatch {
            id: id.to_owned(),
            cgroup: cgroup.clone(),
            events: events.clone(),
            seen: AtomicU64::new(0),
            task: Mutex::new(None),
        })
    }

    async fn follow(self: Arc<Self>, changes: EventsFile) {
        // Reading arms the next wait; it fails once the cgroup is gone.
        while let Ok(now) = changes.read() {
            self.saw(now.get("oom_kill").copied().unwrap_or(0));
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The number of kills up to now.
    pub fn kills(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Checks for a kill that was not reported yet; returns the number of kills so far.
    pub fn check(&self) -> u64 {
        self.saw(self.cgroup.oom_kills())
    }

    fn saw(&self, kills: u64) -> u64 {
        let before = self.seen.fetch_max(kills, Ordering::SeqCst);
        if kills > before {
            self.events.push_oom(&self.id);
        }
        kills.max(before)
    }

    /// Stops the watch.
    pub fn stop(&self) {
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::sync::mpsc::error::TryRecvError;

    #[tokio::test]
    async fn one_event_however_the_kill_is_heard_of() {
        let events = Arc::new(Events::new());
        let watch = OomWatch {
            id: "c1".into(),
            cgroup: Cgroup::new(Path::new("/no/such")).unwrap(),
            events: events.clone(),
            seen: AtomicU64::new(0),
            task: Mutex::new(None),
        };
        assert_eq!(watch.saw(1), 1);
        assert_eq!(watch.saw(1), 1);
        assert_eq!(watch.saw(0), 1);
        assert_eq!(events.next().await.oom().container_id, "c1");
        let more = events.receiver.lock().await.try_recv();
        assert!(matches!(more, Err(TryRecvError::Empty)), "{more:?}");
    }

    #[tokio::test]
    async fn events_beyond_the_limit_are_lost() {
        let events = Events::new();
        for n in 0..=KEPT {
            events.push_oom(&n.to_string());
        }
        for n in 0..KEPT {
            assert_eq!(events.next().await.oom().container_id, n.to_string());
        }
        let more = events.receiver.lock().await.try_recv();
        assert!(matches!(more, Err(TryRecvError::Empty)), "{more:?}");
    }

    #[tokio::test]
    async fn a_watch_needs_the_file_of_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let events = Arc::new(Events::new());
        let cgroup = Cgroup::within(folder.path());
        assert!(OomWatch::start("c", &cgroup, &events).is_err());
    }
}
