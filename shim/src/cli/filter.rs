//! `--filter KEY=VALUE` of lists: for each given key one of its values must match.

use std::collections::BTreeMap;

use runtime::Error;

/// The values to match, by key.
#[derive(Debug, Default)]
pub(crate) struct Filter(BTreeMap<String, Vec<String>>);

impl Filter {
    /// Parses filters; each must have one of `keys`.
    pub(crate) fn parse(list: &[String], keys: &[&str]) -> Result<Self, Error> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in list {
            match text.split_once('=') {
                Some((key, value)) if keys.contains(&key) => {
                    let values = wanted.entry(key.to_owned()).or_default();
                    values.push(value.to_owned());
                }
                _ => {
                    let expected = format!("KEY=VALUE, with KEY one of {}", keys.join(", "));
                    return Err(Error::invalid("filter", text, expected));
                }
            }
        }
        Ok(Self(wanted))
    }

    /// Whether for each key one value satisfies `has`.
    pub(crate) fn matches(&self, has: impl Fn(&str, &str) -> bool) -> bool {
        let mut keys = self.0.iter();
        keys.all(|(key, values)| values.iter().any(|value| has(key, value)))
    }
}

/// Whether these labels have `NAME` or `NAME=VALUE`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|there| there == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_each_key_must_fit() {
        let parse = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
            Filter::parse(&list, &["name", "status"])
        };
        let has = |key: &str, value: &str| matches!((key, value), ("name", "a") | ("status", "up"));
        let fits = |list: &[&str]| parse(list).unwrap().matches(has);
        assert!(fits(&[]) && fits(&["name=a"]) && fits(&["name=b", "name=a", "status=up"]));
        assert!(!fits(&["name=b"]) && !fits(&["name=a", "status=down"]));
        let error = parse(&["colour=red"]).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::InvalidValue { value, expected, .. }
                    if value == "colour=red" && expected.contains("name, status")
            ),
            "{error}"
        );
    }

    #[test]
    fn labels_by_name_or_value() {
        let labels = BTreeMap::from([("tier".to_owned(), "back".to_owned())]);
        assert!(has_label(&labels, "tier") && has_label(&labels, "tier=back"));
        assert!(!has_label(&labels, "tier=front") && !has_label(&labels, "back"));
    }
}
