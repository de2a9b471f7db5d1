//! The runtime options: an `Any` with `runtimeoptions.v1.Options`, on stdin of
//! `start` and in `CreateTaskRequest.options`. Only `config_path` is used. Of
//! any other type (`ctr` sends runc's by itself) nothing is read.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};

use crate::error::{Context, Error, Result};

const TYPE: &str = "runtimeoptions.v1.Options";

/// Field 2 (`config_path`), a length-delimited field (wire type 2).
const CONFIG_PATH: u32 = 2 << 3 | 2;

/// More than any options ever are.
const LIMIT: u64 = 1 << 20;

/// The configuration file named on stdin, if there is one.
pub fn from_stdin() -> Result<Option<PathBuf>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    stdin
        .lock()
        .take(LIMIT)
        .read_to_end(&mut bytes)
        .doing("read the runtime options from stdin")?;
    let any = Any::parse_from_bytes(&bytes).map_err(Error::Options)?;
    config_path(&any).map_err(Error::Options)
}

/// The configuration file that the options name, if they do.
pub fn config_path(any: &Any) -> protobuf::Result<Option<PathBuf>> {
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Ok(None);
    }
    let mut path = None;
    let mut input = CodedInputStream::from_bytes(&any.value);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if tag == CONFIG_PATH {
            path = Some(input.read_string()?).filter(|text| !text.is_empty());
        } else {
            skip(tag, &mut input)?;
        }
    }
    Ok(path.map(PathBuf::from))
}

/// Steps over a field that is not read.
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
    fn the_path_among_other_fields() {
        // 1: "t", 2: "/c", 3: bytes
        let value = b"\x0a\x01t\x12\x02/c\x1a\x01x";
        let path = config_path(&any(TYPE, value)).unwrap();
        assert_eq!(path, Some(PathBuf::from("/c")));
        let long = format!("types.googleapis.com/{TYPE}");
        assert_eq!(config_path(&any(&long, value)).unwrap(), path);
    }

    #[test]
    fn nothing_there() {
        assert_eq!(config_path(&Any::default()).unwrap(), None);
        assert_eq!(config_path(&any(TYPE, b"\x0a\x01t")).unwrap(), None);
        let foreign = any("containerd.runc.v1.Options", b"\xff\xff");
        assert_eq!(config_path(&foreign).unwrap(), None);
    }

    #[test]
    fn broken_bytes_are_an_error() {
        assert!(config_path(&any(TYPE, b"\x12\x7f/c")).is_err());
    }
}
