//! Filters for events.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{Event, Kind};
use crate::engine::time::rfc3339;
use crate::error::{Error, Result};

/// The keys of podman's `events --filter`.
const KEYS: [&str; 8] = [
    "container",
    "event",
    "image",
    "label",
    "name",
    "pod",
    "type",
    "volume",
];

/// A filter for events: an event must match one value of each given key, and be within the span
/// of time.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    wanted: BTreeMap<String, Vec<String>>,
    since: Option<String>,
    until: Option<String>,
}

impl Filter {
    /// Parses filters of the form `KEY=VALUE`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an unknown key.
    pub fn parse<T: AsRef<str>>(filters: &[T]) -> Result<Self> {
        let mut filter = Self::default();
        for text in filters.iter().map(AsRef::as_ref) {
            match text.split_once('=') {
                Some((key, value)) if KEYS.contains(&key) => filter.want(key, value),
                _ => {
                    let expected = format!("KEY=VALUE, with KEY one of {}", KEYS.join(", "));
                    return Err(Error::invalid("filter", text, expected));
                }
            }
        }
        Ok(filter)
    }

    /// Adds a value of a key.
    pub fn want(&mut self, key: &str, value: &str) {
        let values = self.wanted.entry(key.to_owned()).or_default();
        values.push(value.to_owned());
    }

    /// Limits the events to a span of time.
    pub fn between(&mut self, since: Option<SystemTime>, until: Option<SystemTime>) {
        self.since = since.map(rfc3339);
        self.until = until.map(rfc3339);
    }

    /// Whether an event matches.
    pub fn fits(&self, event: &Event) -> bool {
        // RFC 3339 in UTC with nine digits sorts in the order of time.
        let early = self.since.as_ref().is_some_and(|since| event.time < *since);
        let late = self.until.as_ref().is_some_and(|until| event.time > *until);
        let mut keys = self.wanted.iter();
        !early
            && !late
            && keys.all(|(key, values)| values.iter().any(|value| has(event, key, value)))
    }
}

fn has(event: &Event, key: &str, value: &str) -> bool {
    let is = |kind: Kind| {
        let id = !value.is_empty() && event.id.starts_with(value);
        event.kind == kind && (event.name == value || id)
    };
    match key {
        "event" => event.action == value,
        "type" => event.kind.name() == value,
        "name" => event.name == value,
        "container" => is(Kind::Container),
        // A pod's name also matches the events of its containers.
        "pod" => is(Kind::Pod) || event.pod == value,
        "image" => {
            is(Kind::Image)
                || event
                    .attributes
                    .get("image")
                    .is_some_and(|image| image == value)
        }
        "volume" => is(Kind::Volume),
        "label" => match value.split_once('=') {
            Some((name, value)) => event.labels.get(name).is_some_and(|there| there == value),
            None => event.labels.contains_key(value),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(kind: Kind, action: &str) -> Event {
        let mut event = Event::new(kind, action, "db", "abcdef");
        event.pod = "web".into();
        event.labels.insert("tier".into(), "back".into());
        event.time = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        event
    }

    fn fits(filters: &[&str]) -> bool {
        let event = event(Kind::Container, "died");
        Filter::parse(filters).unwrap().fits(&event)
    }

    #[test]
    fn one_value_of_each_key_must_fit() {
        assert!(fits(&[]));
        assert!(fits(&["event=start", "event=died"]));
        assert!(!fits(&["event=died", "type=pod"]));
        assert!(fits(&["container=db", "pod=web", "type=container"]));
        assert!(fits(&["container=abc"]) && !fits(&["container=bcd"]));
        assert!(!fits(&["container="]));
        assert!(fits(&["label=tier"]) && fits(&["label=tier=back"]));
        assert!(!fits(&["label=tier=front"]) && !fits(&["volume=db"]));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for bad in ["colour=red", "event", "=x"] {
            let error = Filter::parse(&[bad]).unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::InvalidValue { value, expected, .. }
                        if value == bad && expected.contains("container")
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_span_of_time() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let within = |since, until| {
            let mut filter = Filter::default();
            filter.between(since, until);
            filter.fits(&event(Kind::Pod, "start"))
        };
        assert!(within(None, None) && within(at(100), at(100)) && within(at(1), at(200)));
        assert!(!within(at(101), None) && !within(None, at(99)));
    }

    #[test]
    fn each_key_asks_for_events_of_its_kind() {
        use Kind::{Container, Image, Pod, Volume};
        let kinds = [Container, Image, Pod, Volume];
        let fitting = |filter: &str| {
            let filter = Filter::parse(&[filter]).unwrap();
            kinds.map(|kind| {
                let mut event = event(kind, "died");
                event.pod = if kind == Container {
                    "web".into()
                } else {
                    String::new()
                };
                if kind == Container {
                    event.attributes.insert("image".into(), "busybox".into());
                }
                u8::from(filter.fits(&event))
            })
        };
        for (filter, fits) in [
            ("container=db", [1, 0, 0, 0]),
            ("container=abcd", [1, 0, 0, 0]),
            ("image=db", [0, 1, 0, 0]),
            ("image=abc", [0, 1, 0, 0]),
            ("image=busybox", [1, 0, 0, 0]),
            ("image=busy", [0, 0, 0, 0]),
            ("pod=db", [0, 0, 1, 0]),
            ("pod=a", [0, 0, 1, 0]),
            ("pod=web", [1, 0, 0, 0]),
            ("pod=w", [0, 0, 0, 0]),
            ("volume=db", [0, 0, 0, 1]),
            ("volume=x", [0, 0, 0, 0]),
            ("name=db", [1, 1, 1, 1]),
            ("name=d", [0, 0, 0, 0]),
            ("event=died", [1, 1, 1, 1]),
            ("event=die", [0, 0, 0, 0]),
            ("type=volume", [0, 0, 0, 1]),
            ("type=image", [0, 1, 0, 0]),
            ("label=tier", [1, 1, 1, 1]),
            ("label=back", [0, 0, 0, 0]),
            ("label=tier=back", [1, 1, 1, 1]),
            ("label=tier=", [0, 0, 0, 0]),
        ] {
            assert_eq!(fitting(filter), fits, "{filter}");
        }
        // One of its own does not ask for what no name was given to.
        for key in ["container", "image", "volume"] {
            assert_eq!(fitting(&format!("{key}=")), [0; 4], "{key}");
        }
    }

    #[test]
    fn a_value_that_is_asked_for_directly_counts_as_one_that_was_parsed() {
        let mut filter = Filter::default();
        filter.want("event", "start");
        assert!(!filter.fits(&event(Kind::Pod, "died")));
        filter.want("event", "died");
        assert!(filter.fits(&event(Kind::Pod, "died")));
    }
}
