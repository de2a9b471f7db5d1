//! The input of `start` on stdin, and its answer.
//!
//! | containerd | stdin | answer |
//! |---|---|---|
//! | to 2.2, CRI-O | the runtime options as an `Any`, or nothing | the address as text |
//! | from 2.3 | `BootstrapParams` | `BootstrapResult` |
//!
//! The call itself does not say which of the two it is, and the bytes of one may parse as the
//! other. `BootstrapParams` repeats the id and the namespace of the command line: containerd's
//! own shims recognise it by them (pkg/shim/compat.go `parseBootstrapParams`).

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::containerd::address::{Address, SOCKET_DIR};
use crate::containerd::flags::Flags;
use crate::containerd::options::{self, Given};
use crate::error::{Context, Error, Result};

/// The limit of containerd's own shims (pkg/shim/shim.go `run`).
const LIMIT: u64 = 10 << 20;

/// `LOG_LEVEL_DEBUG`; more verbose levels are lower.
const DEBUG: i32 = -4;

/// From 3 on, containerd creates further containers of a pod at the pod's shim
/// without a `start` of their own (core/runtime/v2/shim_manager.go `Start`).
const VERSION: i32 = 3;

const PROTOCOL: &str = "ttrpc";

/// The input of `start` beside its command line.
#[derive(Debug, Default)]
pub struct Bootstrap {
    /// The runtime options.
    options: Any,
    /// The parameters from containerd 2.3 on.
    params: Option<BootstrapParams>,
}

impl Bootstrap {
    /// Reads stdin to its end.
    ///
    /// # Errors
    /// It cannot be read, or holds neither of the two messages.
    pub fn read(flags: &Flags) -> Result<Self> {
        Self::parse(&stdin()?, flags)
    }

    fn parse(bytes: &[u8], flags: &Flags) -> Result<Self> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(bytes)
            && (params.instance_id.as_str(), params.namespace.as_str())
                == (flags.id.as_str(), flags.namespace.as_str())
        {
            let values = params.extensions.iter().map(|extension| &extension.value);
            let options = values.filter_map(|value| value.as_ref());
            let options = options.filter(|any| !matches!(options::configuration(any), Ok(None)));
            return Ok(Self {
                options: options.into_iter().next().cloned().unwrap_or_default(),
                params: Some(params),
            });
        }
        Ok(Self {
            options: Any::parse_from_bytes(bytes).map_err(Error::Options)?,
            params: None,
        })
    }

    /// The configuration that the client gives.
    ///
    /// # Errors
    /// The options are broken.
    pub fn configuration(&self) -> Result<Option<Given>> {
        options::configuration(&self.options).map_err(Error::Options)
    }

    /// Fills in what the command line lacks.
    pub fn complete(&self, flags: &mut Flags) {
        let Some(params) = &self.params else { return };
        for (flag, value) in [
            (&mut flags.address, &params.containerd_grpc_address),
            (&mut flags.publish_binary, &params.containerd_binary),
        ] {
            if flag.is_empty() {
                value.clone_into(flag);
            }
        }
        flags.debug |= params.log_level.value() <= DEBUG;
    }

    /// The address for events, if the environment does not name one.
    pub fn ttrpc_address(&self) -> Option<&str> {
        let address = self.params.as_ref()?.containerd_ttrpc_address.as_str();
        (!address.is_empty()).then_some(address)
    }

    /// The directory for the shim's socket.
    ///
    /// # Errors
    /// It is not an absolute path.
    pub fn socket_dir(&self) -> Result<PathBuf> {
        let given = self.params.as_ref().map(BootstrapParams::socket_dir);
        match given.map(Path::new) {
            None => Ok(SOCKET_DIR.into()),
            Some(dir) if dir.as_os_str().is_empty() => Ok(SOCKET_DIR.into()),
            Some(dir) if dir.is_absolute() => Ok(dir.to_owned()),
            Some(dir) => Err(Error::SocketDir(dir.to_owned())),
        }
    }

    /// Encodes the answer for stdout.
    ///
    /// # Errors
    /// The message cannot be encoded.
    pub fn answer(&self, address: &Address) -> Result<Vec<u8>> {
        if self.params.is_none() {
            return Ok(address.to_string().into_bytes());
        }
        let result = BootstrapResult {
            version: VERSION,
            address: address.to_string(),
            protocol: PROTOCOL.into(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().map_err(Error::Answer)
    }
}

/// Reads all of stdin; nothing if it is a terminal.
///
/// # Errors
/// It cannot be read, or is longer than any message.
pub fn stdin() -> Result<Vec<u8>> {
    const WHAT: &str = "read the runtime options from stdin";
    let stdin = std::io::stdin();
    let mut bytes = Vec::new();
    if !stdin.is_terminal() {
        let mut input = stdin.lock().take(LIMIT + 1);
        input.read_to_end(&mut bytes).doing(WHAT)?;
    }
    if bytes.len() as u64 > LIMIT {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge)).doing(WHAT);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::{EnumOrUnknown, MessageField};

    fn flags() -> Flags {
        Flags {
            id: "c1".into(),
            namespace: "k8s.io".into(),
            ..Flags::default()
        }
    }

    fn options(path: &str) -> Any {
        Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: [b"\x12", [path.len() as u8].as_slice(), path.as_bytes()].concat(),
            ..Any::default()
        }
    }

    fn params(extensions: Vec<Any>) -> BootstrapParams {
        BootstrapParams {
            instance_id: "c1".into(),
            namespace: "k8s.io".into(),
            extensions: extensions
                .into_iter()
                .map(|value| Extension {
                    value: MessageField::some(value),
                    ..Extension::default()
                })
                .collect(),
            ..BootstrapParams::default()
        }
    }

    fn parse(message: &impl Message) -> Bootstrap {
        Bootstrap::parse(&message.write_to_bytes().unwrap(), &flags()).unwrap()
    }

    #[test]
    fn options_as_ever() {
        let old = parse(&options("/c.toml"));
        assert_eq!(
            old.configuration().unwrap(),
            Some(Given::Path("/c.toml".into()))
        );
        assert_eq!(old.answer(&Address::parse("/s/x")).unwrap(), b"unix:///s/x");
        assert_eq!(old.socket_dir().unwrap(), Path::new(SOCKET_DIR));

        let nothing = Bootstrap::parse(b"", &flags()).unwrap();
        assert_eq!(nothing.configuration().unwrap(), None);
        assert_eq!(
            nothing.answer(&Address::parse("/s/x")).unwrap(),
            b"unix:///s/x"
        );
    }

    #[test]
    fn options_among_extensions() {
        let foreign = Any {
            type_url: "containerd.io/nri.v1.PluginConfig".into(),
            value: b"\xff".into(),
            ..Any::default()
        };
        let new = parse(&params(vec![foreign, options("/c.toml")]));
        assert_eq!(
            new.configuration().unwrap(),
            Some(Given::Path("/c.toml".into()))
        );
        assert_eq!(
            new.answer(&Address::parse("/s/x")).unwrap(),
            b"\x08\x03\x12\x0bunix:///s/x\x1a\x05ttrpc"
        );
        assert_eq!(parse(&params(vec![])).configuration().unwrap(), None);
    }

    #[test]
    fn params_of_another_container_are_none() {
        let mut other = params(vec![]);
        other.instance_id = "types.example/Options".into();
        let read = parse(&other);
        assert!(read.params.is_none());
        assert_eq!(read.configuration().unwrap(), None);
    }

    #[test]
    fn what_the_command_line_lacks_is_added() {
        let mut message = params(vec![]);
        message.log_level = EnumOrUnknown::from_i32(-8);
        message.containerd_grpc_address = "/run/c.sock".into();
        message.containerd_binary = "/usr/bin/containerd".into();
        message.containerd_ttrpc_address = "/run/c.ttrpc".into();
        message.set_socket_dir("/run/s".into());
        let read = parse(&message);
        let mut flags = Flags {
            address: "/flag.sock".into(),
            ..flags()
        };

        read.complete(&mut flags);

        assert_eq!(flags.address, "/flag.sock");
        assert_eq!(flags.publish_binary, "/usr/bin/containerd");
        assert!(flags.debug);
        assert_eq!(read.ttrpc_address(), Some("/run/c.ttrpc"));
        assert_eq!(read.socket_dir().unwrap(), Path::new("/run/s"));

        message.log_level = EnumOrUnknown::from_i32(0);
        message.set_socket_dir("run/s".into());
        let read = parse(&message);
        let mut flags = Flags::default();
        read.complete(&mut flags);
        assert!(!flags.debug);
        assert!(matches!(read.socket_dir(), Err(Error::SocketDir(_))));
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let broken = Bootstrap::parse(b"\x0a\x7f", &flags());
        assert!(matches!(broken, Err(Error::Options(_))));
        let broken = Any {
            value: b"\x12\x7f".into(),
            ..options("")
        };
        let broken = parse(&params(vec![broken])).configuration();
        assert!(matches!(broken, Err(Error::Options(_))));
    }

    const AGAIN: &str = "RUST_KATA_TEST_AGAIN";

    /// It runs itself, with these numbers of bytes as stdin.
    #[test]
    fn stdin_is_read_to_its_end_within_the_limit() {
        if std::env::var_os(AGAIN).is_some() {
            match stdin() {
                Ok(bytes) => println!("<{}>", bytes.len()),
                Err(error) => println!("<{error}>"),
            }
            return;
        }
        let test = "containerd::bootstrap::tests::stdin_is_read_to_its_end_within_the_limit";
        for (length, expected) in [
            (0, "<0>"),
            (7, "<7>"),
            (LIMIT, "<10485760>"),
            (
                LIMIT + 1,
                "<cannot read the runtime options from stdin: file too large>",
            ),
        ] {
            let input = tempfile::tempfile().unwrap();
            input.set_len(length).unwrap();
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(AGAIN, "1")
                .stdin(input)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains(expected), "{length}: {said}");
        }
    }

    #[test]
    fn the_level_of_debugging_and_an_address_are_taken_from_the_parameters() {
        let mut message = params(vec![]);
        for (level, debug) in [(-4, true), (-3, false), (-5, true)] {
            message.log_level = EnumOrUnknown::from_i32(level);
            let mut flags = flags();
            parse(&message).complete(&mut flags);
            assert_eq!(flags.debug, debug, "{level}");
        }
        assert_eq!(parse(&message).ttrpc_address(), None);
        let mut flags = flags();
        flags.debug = true;
        message.log_level = EnumOrUnknown::from_i32(0);
        parse(&message).complete(&mut flags);
        assert!(flags.debug);
    }
}
