//! containerd's events, in the order of their publication.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its topic, such as `/tasks/exit`.
    pub topic: String,
    /// The containerd namespace that it belongs to.
    pub namespace: String,
    /// Its fields.
    pub fields: Value,
}

impl Event {
    /// Parses a line of `ctr events`: time, namespace, topic, JSON.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(7, ' ').skip(4);
        let (namespace, topic, json) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            topic: topic.to_owned(),
            namespace: namespace.to_owned(),
            fields: serde_json::from_str(json).ok()?,
        })
    }

    /// The id of its container.
    pub fn container(&self) -> &str {
        let id = if self.topic.starts_with("/tasks/") {
            "container_id"
        } else {
            "id"
        };
        self.fields[id].as_str().unwrap_or_default()
    }

    /// The id of its exec; empty for the container's init.
    pub fn exec(&self) -> &str {
        let id = self.fields["exec_id"]
            .as_str()
            .or(self.fields["id"].as_str())
            .unwrap_or_default();
        if id == self.container() { "" } else { id }
    }

    /// Its exit status (0 is left out of the JSON).
    pub fn status(&self) -> Option<u64> {
        let tells = matches!(self.topic.as_str(), "/tasks/exit" | "/tasks/delete");
        tells.then(|| self.fields["exit_status"].as_u64().unwrap_or(0))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.topic)?;
        if !self.exec().is_empty() {
            write!(f, " exec={}", self.exec())?;
        }
        if let Some(status) = self.status() {
            write!(f, " status={status}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

/// A subscription to all events of a containerd.
pub struct EventLog {
    shared: Arc<Shared>,
    child: Child,
}

impl EventLog {
    /// Subscribes with `command` (`ctr … events`).
    pub fn subscribe(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ctr starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for event in lines
                .map_while(Result::ok)
                .filter_map(|line| Event::parse(&line))
            {
                theirs.events.lock().expect("no reader panics").push(event);
                theirs.changed.notify_all();
            }
        });
        Self { shared, child }
    }

    /// The pid of the subscriber.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until an event with `wanted` has come.
    pub fn wait(&self, limit: Duration, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let deadline = Instant::now() + limit;
        let mut events = self.shared.events.lock().expect("no reader panics");
        loop {
            if let Some(found) = events.iter().find(|event| wanted(event)) {
                return Some(found.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            events = self
                .shared
                .changed
                .wait_timeout(events, left)
                .expect("no reader panics")
                .0;
        }
    }

    /// The task events of a container so far.
    pub fn of(&self, namespace: &str, container: &str) -> Vec<Event> {
        let events = self.shared.events.lock().expect("no reader panics");
        let wanted = |event: &&Event| {
            event.namespace == namespace
                && event.topic.starts_with("/tasks/")
                && event.container() == container
        };
        events.iter().filter(wanted).cloned().collect()
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ctr_events_is_read() {
        let line = "2026-11-22 02:34:46.686455696 +0000 UTC foo /tasks/exit \
            {\"container_id\":\"a\",\"id\":\"e\",\"pid\":7,\"exit_status\":3}";

        let event = Event::parse(line).expect("an event");

        assert_eq!(
            (event.namespace.as_str(), event.container(), event.exec()),
            ("foo", "a", "e")
        );
        assert_eq!(event.to_string(), "/tasks/exit exec=e status=3");
    }
}
