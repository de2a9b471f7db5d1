//! The runtime options: an `Any` with `runtimeoptions.v1.Options`, on the stdin of `start` and
//! in `CreateTaskRequest.options`. They name a configuration file, or hold its text: the TOML
//! section of containerd's own configuration. An `Any` of another type is ignored: `ctr` sends
//! runc's by default.

use std::path::PathBuf;

use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

const TYPE: &str = "runtimeoptions.v1.Options";

/// Fields 2 (`config_path`) and 3 (`config_body`), both length-delimited (wire type 2).
const CONFIG_PATH: u32 = 2 << 3 | 2;
const CONFIG_BODY: u32 = 3 << 3 | 2;

/// A configuration that the client gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The path of a file.
    Path(PathBuf),
    /// The text itself.
    Body(Vec<u8>),
}

/// The configuration in the options, if any. A file takes precedence over a text.
pub fn configuration(any: &Any) -> protobuf::Result<Option<Given>> {
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Ok(None);
    }
    let (mut path, mut body) = (String::new(), Vec::new());
    let mut input = CodedInputStream::from_bytes(&any.value);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            CONFIG_PATH => path = input.read_string()?,
            CONFIG_BODY => body = input.read_bytes()?,
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(match (path.is_empty(), body.is_empty()) {
        (false, _) => Some(Given::Path(path.into())),
        (true, false) => Some(Given::Body(body)),
        (true, true) => None,
    })
}

/// Skips a field that is not read.
fn skip(tag: u32, input: &mut CodedInputStream) -> protobuf::Result<()> {
    protobuf::rt::read_unknown_or_skip_group(
        tag,
        input,
        protobuf::SpecialFields::new().mut_unknown_fields(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: &[u8]) -> Any {
        Any {
            type_url: type_url.into(),
            value: value.into(),
            ..Any::default()
        }
    }

    #[test]
    fn the_path_goes_before_the_body() {
        // 1: "t", 2: "/c", 3: "x"
        let value = b"\x0a\x01t\x12\x02/c\x1a\x01x";
        let given = configuration(&any(TYPE, value)).unwrap();
        assert_eq!(given, Some(Given::Path("/c".into())));
        let long = format!("types.googleapis.com/{TYPE}");
        assert_eq!(configuration(&any(&long, value)).unwrap(), given);
    }

    #[test]
    fn the_body_alone() {
        // 2: "", 3: "x"
        let given = configuration(&any(TYPE, b"\x12\x00\x1a\x01x")).unwrap();
        assert_eq!(given, Some(Given::Body(b"x".into())));
    }

    #[test]
    fn nothing_there() {
        assert_eq!(configuration(&Any::default()).unwrap(), None);
        assert_eq!(configuration(&any(TYPE, b"\x0a\x01t")).unwrap(), None);
        let foreign = any("containerd.runc.v1.Options", b"\xff\xff");
        assert_eq!(configuration(&foreign).unwrap(), None);
    }

    #[test]
    fn other_types_and_fields_are_ignored() {
        // A path in field 2, as ours would be.
        for other in [
            "",
            "runtimeoptions.v1.Options2",
            "x.runtimeoptions.v1.Options",
            "t/x",
        ] {
            let given = configuration(&any(other, b"\x12\x02/c")).unwrap();
            assert_eq!(given, None, "{other}");
        }
        // 4: a number, 5: a group with 1: "a", 15: fixed; around 2: "/c".
        let value = b"\x20\x07\x2b\x0a\x01a\x2c\x12\x02/c\x7d\x01\x02\x03\x04";
        let given = configuration(&any(TYPE, value)).unwrap();
        assert_eq!(given, Some(Given::Path("/c".into())));
    }

    #[test]
    fn broken_bytes_are_an_error() {
        // Longer than they are, in a field that is read and in one that is not; no end of a
        // group; no UTF-8.
        for bad in [
            &b"\x12\x7f/c"[..],
            b"\x0a\x7f",
            b"\x2b\x0a\x01a",
            b"\x12\x01\xff",
        ] {
            let error = configuration(&any(TYPE, bad)).unwrap_err();
            assert!(!error.to_string().is_empty(), "{bad:?}");
        }
    }
}
