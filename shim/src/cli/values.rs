//! Values on the command line: sizes, signals, times, pairs.

use std::collections::BTreeMap;
use std::env::VarError;
use std::time::{Duration, SystemTime};

use runtime::{Error, Result};

/// Variables as given: `NAME=VALUE`, or `NAME` for the caller's value, if it is set.
pub(crate) fn environment(given: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::with_capacity(given.len());
    for pair in given {
        let name = pair.split_once('=').map_or(pair.as_str(), |(name, _)| name);
        if name.is_empty() {
            return Err(Error::invalid("variable", pair, "NAME=VALUE or NAME"));
        }
        if name.len() < pair.len() {
            variables.push(pair.clone());
            continue;
        }
        match std::env::var(name) {
            Ok(value) => variables.push(format!("{name}={value}")),
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(value)) => {
                let value = value.to_string_lossy().into_owned();
                return Err(Error::invalid(format!("variable {name}"), value, "UTF-8"));
            }
        }
    }
    Ok(variables)
}

/// `NAME=VALUE` pairs.
pub(crate) fn pairs(list: &[String], what: &'static str) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.is_empty() {
                return Err(Error::invalid(what, pair, "NAME=VALUE"));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// A size in bytes: `512m`, `2g`, `1048576`.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1u64 << 30,
        _ => 0,
    };
    let number = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    number
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid("size", text, "NUMBER[k|m|g]"))
}

/// A signal by name (`TERM`, `SIGTERM`) or number.
pub(crate) fn signal(text: &str) -> std::result::Result<i32, String> {
    let number = runtime::engine::image::signal(text);
    number.ok_or_else(|| "expected a name such as TERM, or a number from 1 to 64".into())
}

/// A point in time, or the time since then.
pub(crate) fn moment(text: &str) -> std::result::Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let at = SystemTime::now().checked_sub(ago);
        return at.ok_or_else(|| "the duration is too long".into());
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected a time such as 2026-11-23T05:00:00Z, or a duration as 10m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_a_value_are_the_callers_or_left_out() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let path = std::env::var("PATH").unwrap();
        let found = environment(&list("A=1 B= PATH RUST_KATA_NOT_SET C=x=y")).unwrap();
        assert_eq!(found, ["A=1", "B=", &format!("PATH={path}"), "C=x=y"]);
        for bad in ["=x", "="] {
            let error = environment(&list(bad)).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidValue { value, .. } if value == bad),
                "{error}"
            );
        }
    }

    #[test]
    fn sizes_and_signals() {
        assert_eq!(bytes("512m").unwrap(), 512 << 20);
        assert_eq!(bytes("7").unwrap(), 7);
        assert_eq!(bytes("2G").unwrap(), 2 << 30);
        for (text, number) in [
            ("3b", 3),
            ("3k", 3 << 10),
            ("3KiB", 3 << 10),
            ("3kb", 3 << 10),
        ] {
            assert_eq!(bytes(text).unwrap(), number, "{text}");
        }
        for (text, number) in [
            ("3mb", 3 << 20),
            ("3mib", 3 << 20),
            ("3gb", 3 << 30),
            (" 3GiB ", 3 << 30),
        ] {
            assert_eq!(bytes(text).unwrap(), number, "{text}");
        }
        for bad in ["", "m", "-1", "1x", "0", "99999999999999g"] {
            let said = bytes(bad).unwrap_err().to_string();
            assert_eq!(
                said,
                format!("invalid size {bad:?}: expected NUMBER[k|m|g]")
            );
        }
        assert_eq!(signal("TERM"), Ok(15));
        assert_eq!(signal("sigkill"), Ok(9));
        assert_eq!(signal("34"), Ok(34));
        assert_eq!(signal("64"), Ok(64));
        for bad in ["0", "65", "NOPE", ""] {
            assert!(signal(bad).unwrap_err().contains("from 1 to 64"), "{bad}");
        }
    }
}
