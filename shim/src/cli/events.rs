//! `rust-kata events`: past and future events of pods and containers.

use std::io::{ErrorKind, Write, stdout};
use std::time::SystemTime;

use clap::Args;
use runtime::engine::journal::{Event, Filter, Follower, Reader};

use super::context::Context;
use super::error::CliResult;
use super::values::moment;
use crate::error::Context as _;

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Filter output by container, event, image, label, name, pod, type or volume; values of
    /// the same key are alternatives
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Show events since a time (2026-11-23T05:00:00Z) or for a duration (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,

    /// Show events before a time; with --follow, end then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,

    /// Follow new events; without --since, show only those
    #[arg(long, short, alias = "stream")]
    follow: bool,

    /// Set the output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The format of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A readable line.
    #[default]
    Text,
    /// A line of JSON.
    Json,
}

impl Events {
    /// Restricts the events to those of `pods`.
    pub(crate) fn of_pods(&mut self, pods: &[String]) {
        let pods = pods.iter().map(|pod| format!("pod={pod}"));
        self.filter.extend(pods);
    }

    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let mut filter = Filter::parse(&self.filter)?;
        let since = match (self.since, self.follow) {
            (None, true) => Some(SystemTime::now()),
            (since, _) => since,
        };
        filter.between(since, self.until);
        let selected = |event: &Event| {
            let namespace = context.namespace.as_deref();
            filter.fits(event) && namespace.is_none_or(|namespace| event.namespace == namespace)
        };
        let journal = context.engine.journal();
        if !self.follow {
            let events = Reader::open(&journal)?.events()?;
            self.show(events.iter().filter(|event| selected(event)))?;
            return Ok(());
        }
        tokio::task::block_in_place(|| {
            let mut follower = Follower::new(&journal)?;
            while let Some(events) = follower.next(self.until)? {
                if !self.show(events.iter().filter(|event| selected(event)))? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Shows events; false if the reader of stdout has gone.
    fn show<'a>(&self, events: impl Iterator<Item = &'a Event>) -> CliResult<bool> {
        let mut text = String::new();
        for event in events {
            text.push_str(&match self.format {
                Format::Text => line(event),
                Format::Json => {
                    serde_json::to_string(event).map_err(runtime::Error::encode("the event"))?
                }
            });
            text.push('\n');
        }
        let mut stdout = stdout();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            other => other.doing("write to stdout").map(|()| true),
        }
    }
}

/// A line as with podman: `TIME TYPE ACTION ID (pod=web, name=db, exit_code=137)`.
fn line(event: &Event) -> String {
    let mut about = vec![format!("name={}", event.name)];
    if !event.pod.is_empty() && event.pod != event.name {
        about.insert(0, format!("pod={}", event.pod));
    }
    let more = event.attributes.iter().chain(&event.labels);
    about.extend(more.map(|(name, value)| format!("{name}={value}")));
    let id: String = event.id.chars().take(12).collect();
    let (kind, action) = (event.kind.name(), &event.action);
    let about = about.join(", ");
    format!("{} {kind} {action} {id} ({about})", event.time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::engine::journal::Kind;

    #[test]
    fn a_line_tells_what_podmans_does() {
        let mut event = Event::new(Kind::Container, "died", "db", "0123456789abcdef");
        event.time = "2026-11-23T05:00:00.000000000Z".into();
        event.pod = "web".into();
        let event = event.with("exit_code", 137);
        assert_eq!(
            line(&event),
            "2026-11-23T05:00:00.000000000Z container died 0123456789ab (pod=web, name=db, exit_code=137)"
        );
    }
}
