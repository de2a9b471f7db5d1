//! `--filter KEY=VALUE` of lists, with podman's keys and meanings. The values of a key are
//! alternatives, but all given labels must be there.

use std::collections::BTreeMap;
use std::time::SystemTime;

use regex::Regex;
use runtime::Error;
use runtime::engine::status::ContainerStatus;

use super::values::moment;

/// The values that a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A regular expression that matches a part of the text.
    Pattern,
    /// `NAME` or `NAME=VALUE`.
    Label,
    /// A point in time, or a duration before now.
    Until,
    /// A number.
    Number,
    /// A text for which this holds; and the words for it.
    Checked(fn(&str) -> bool, &'static str),
}

/// A key of a list.
pub(crate) type Key = (&'static str, Kind);

/// The key for states of containers, in podman's words.
pub(crate) const CONTAINER_STATUS: Kind = Kind::Checked(
    |word| container_status(word).is_some(),
    "created, initialized, running, paused, stopping, stopped or exited",
);

/// The state with this name.
fn container_status(word: &str) -> Option<ContainerStatus> {
    use ContainerStatus::*;
    Some(match word.to_ascii_lowercase().as_str() {
        "created" | "configured" => Configured,
        "initialized" => Initialized,
        "running" => Running,
        "paused" => Paused,
        "stopping" => Stopping,
        "stopped" | "exited" => Exited,
        _ => return None,
    })
}

/// Whether `status`, as it is shown, is the state with this name.
pub(crate) fn is_status(status: &str, word: &str) -> bool {
    let wanted = container_status(word);
    wanted.is_some() && container_status(status) == wanted
}

/// A value to match.
#[derive(Debug)]
pub(crate) enum Wanted {
    Text(String),
    Pattern(Regex),
    Before(SystemTime),
    Number(u64),
}

impl Wanted {
    fn parse(kind: Kind, value: &str) -> Result<Self, String> {
        match kind {
            Kind::Pattern => {
                let pattern = Regex::new(value);
                let bad = |_| "a regular expression as the value".to_owned();
                pattern.map(Self::Pattern).map_err(bad)
            }
            Kind::Until => moment(value)
                .map(Self::Before)
                .map_err(|said| said.trim_start_matches("expected ").to_owned()),
            Kind::Number => value
                .parse()
                .map(Self::Number)
                .map_err(|_| "a number as the value".to_owned()),
            Kind::Checked(holds, expected) if !holds(value) => Err(expected.to_owned()),
            Kind::Text | Kind::Label | Kind::Checked(..) => Ok(Self::Text(value.to_owned())),
        }
    }

    /// Whether this text is meant.
    pub(crate) fn is(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text),
            _ => false,
        }
    }

    /// The value as given, if it is a text.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    /// Whether this number is meant.
    pub(crate) fn is_number(&self, number: u64) -> bool {
        matches!(self, Self::Number(wanted) if *wanted == number)
    }

    /// Whether this time is before the wanted one.
    pub(crate) fn is_after(&self, time: Option<SystemTime>) -> bool {
        matches!((self, time), (Self::Before(limit), Some(time)) if time < *limit)
    }

    /// Whether the labels have this one.
    pub(crate) fn is_among(&self, labels: &BTreeMap<String, String>) -> bool {
        let wanted = self.text();
        match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|there| there == value),
            None => labels.contains_key(wanted),
        }
    }
}

/// The values to match, by key.
#[derive(Debug, Default)]
pub(crate) struct Filter(BTreeMap<&'static str, (Kind, Vec<Wanted>)>);

impl Filter {
    /// Parses filters; each must have one of `keys`.
    pub(crate) fn parse(list: &[String], keys: &[Key]) -> Result<Self, Error> {
        let mut filter = Self::default();
        for text in list {
            let given = text.split_once('=');
            let known =
                given.and_then(|(given, _)| keys.iter().copied().find(|(name, _)| *name == given));
            let (Some((_, value)), Some((name, kind))) = (given, known) else {
                let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
                let expected = format!("KEY=VALUE, with KEY one of {}", names.join(", "));
                return Err(Error::invalid("filter", text, expected));
            };
            let wanted = Wanted::parse(kind, value)
                .map_err(|expected| Error::invalid("filter", text, expected))?;
            let (_, values) = filter.0.entry(name).or_insert((kind, Vec::new()));
            values.push(wanted);
        }
        Ok(filter)
    }

    /// Whether for each key one value satisfies `has`, and for labels and times each.
    pub(crate) fn matches(&self, has: impl Fn(&str, &Wanted) -> bool) -> bool {
        self.0.iter().all(|(key, (kind, values))| {
            let mut values = values.iter();
            match kind {
                Kind::Label | Kind::Until => values.all(|value| has(key, value)),
                _ => values.any(|value| has(key, value)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEYS: [Key; 6] = [
        ("name", Kind::Pattern),
        ("pod", Kind::Text),
        ("label", Kind::Label),
        ("status", CONTAINER_STATUS),
        ("until", Kind::Until),
        ("exited", Kind::Number),
    ];

    fn parse(list: &[&str]) -> Result<Filter, Error> {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        Filter::parse(&list, &KEYS)
    }

    /// Whether a container `db-1` fits.
    #[track_caller]
    fn fits(list: &[&str]) -> bool {
        let text = |text: &str| text.to_owned();
        let labels = BTreeMap::from([(text("a"), text("1")), (text("b"), text("2"))]);
        let made = SystemTime::now() - Duration::from_secs(600);
        parse(list).unwrap().matches(|key, wanted| match key {
            "name" => wanted.is("db-1"),
            "pod" => wanted.is("web"),
            "label" => wanted.is_among(&labels),
            "status" => is_status("exited", wanted.text()),
            "until" => wanted.is_after(Some(made)),
            _ => wanted.is_number(3),
        })
    }

    #[test]
    fn one_value_of_each_key_must_fit() {
        assert!(fits(&[]) && fits(&["pod=web"]) && fits(&["pod=x", "pod=web", "exited=3"]));
        assert!(!fits(&["pod=x"]) && !fits(&["pod=web", "exited=4"]) && !fits(&["pod=we"]));
    }

    #[test]
    fn every_label_and_time_must_fit() {
        assert!(fits(&["label=a"]) && fits(&["label=a=1"]) && fits(&["label=a=1", "label=b"]));
        assert!(!fits(&["label=a", "label=c"]) && !fits(&["label=a=1", "label=b=3"]));
        assert!(!fits(&["label="]) && !fits(&["label=1"]));
        assert!(fits(&["until=5m"]) && fits(&["until=2999-01-01T00:00:00Z"]));
        assert!(!fits(&["until=20m"]) && !fits(&["until=5m", "until=20m"]));
    }

    #[test]
    fn names_are_patterns() {
        for fitting in ["db", "b-", "^db", "^db-1$", "d.*1", "", "^(web|db)-"] {
            assert!(fits(&[&format!("name={fitting}")]), "{fitting}");
        }
        for other in ["^b", "db$", "dbx", "DB"] {
            assert!(!fits(&[&format!("name={other}")]), "{other}");
        }
    }

    #[test]
    fn states_have_podmans_names() {
        for same in ["exited", "stopped", "Exited"] {
            assert!(fits(&[&format!("status={same}")]), "{same}");
        }
        assert!(!fits(&["status=running"]) && fits(&["status=running", "status=exited"]));
        assert!(is_status("created", "configured") && !is_status("created", "exited"));
        assert!(is_status("stopped", "exited") && !is_status("being created", "created"));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for (bad, why) in [
            ("colour=red", "name, pod, label, status, until, exited"),
            ("label!=a", "name, pod, label"),
            ("name", "KEY=VALUE"),
            ("status=up", "created, initialized, running"),
            ("status=", "created, initialized, running"),
            ("name=db[", "a regular expression"),
            ("until=soon", "a time such as"),
            ("exited=x", "a number"),
        ] {
            let error = parse(&["pod=web", bad]).unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::InvalidValue { value, expected, .. }
                        if value == bad && expected.contains(why)
                ),
                "{error}"
            );
        }
    }
}
