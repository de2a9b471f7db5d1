//! The command line that containerd uses: Go's `flag` syntax (`-id X`,
//! `-id=X`, `--id X`), then one action.

/// The flags that containerd passes to a shim binary.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Flags {
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// The binary that publishes an event when containerd has no ttrpc socket.
    pub publish_binary: String,
    /// The container.
    pub id: String,
    /// The container's bundle; empty: the working directory.
    pub bundle: String,
    /// Log at debug level.
    pub debug: bool,
    /// The listening socket that `start` hands to the server; not containerd's.
    pub listener: String,
    /// Print the version and exit.
    pub version: bool,
    /// Print the name and the features of this runtime and exit.
    pub info: bool,
    /// `start`, `delete`, or empty for serving.
    pub action: String,
}

/// A command line that is not containerd's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// An unknown flag.
    #[error("unknown flag {0}; see --help")]
    Unknown(String),
    /// A flag without its value.
    #[error("flag {0} requires a value")]
    NoValue(String),
    /// A boolean flag with a value that is not a boolean.
    #[error("invalid value {1:?} of flag {0}: expected true or false")]
    NotBool(String, String),
    /// A word after the action.
    #[error("unexpected argument {0:?}; see --help")]
    Extra(String),
}

impl Flags {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                flags.action = word;
                break;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let text = match name {
                "debug" => {
                    flags.debug = switch(&word, inline)?;
                    continue;
                }
                "v" | "version" => {
                    flags.version = switch(&word, inline)?;
                    continue;
                }
                "info" => {
                    flags.info = switch(&word, inline)?;
                    continue;
                }
                "namespace" => &mut flags.namespace,
                "address" => &mut flags.address,
                "publish-binary" => &mut flags.publish_binary,
                "id" => &mut flags.id,
                "bundle" => &mut flags.bundle,
                "listener" => &mut flags.listener,
                _ => return Err(FlagError::Unknown(word)),
            };
            *text = match inline.or_else(|| args.next()) {
                Some(value) => value,
                None => return Err(FlagError::NoValue(word)),
            };
        }
        match args.next() {
            Some(extra) => Err(FlagError::Extra(extra)),
            None => Ok(flags),
        }
    }
}

/// The value of a boolean flag: it stands alone or says `=true` or `=false`.
fn switch(word: &str, value: Option<String>) -> Result<bool, FlagError> {
    match value.as_deref() {
        None | Some("1" | "t" | "true") => Ok(true),
        Some("0" | "f" | "false") => Ok(false),
        Some(other) => Err(FlagError::NotBool(word.to_owned(), other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerd_start_line() {
        let flags = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id x1 -debug start",
        )
        .unwrap();
        assert_eq!(
            flags,
            Flags {
                namespace: "default".into(),
                address: "/run/c.sock".into(),
                publish_binary: "/usr/bin/containerd".into(),
                id: "x1".into(),
                debug: true,
                action: "start".into(),
                ..Flags::default()
            }
        );
    }

    #[test]
    fn empty_values_and_both_spellings() {
        let flags = Flags::parse(
            ["-publish-binary", "", "--id=a=b", "-debug=false", "delete"].map(str::to_owned),
        )
        .unwrap();
        assert_eq!(flags.publish_binary, "");
        assert_eq!(flags.id, "a=b");
        assert!(!flags.debug);
        assert_eq!(flags.action, "delete");
    }

    #[test]
    fn no_action_means_serve() {
        assert_eq!(parse("-id x").unwrap().action, "");
        assert!(parse("-v").unwrap().version);
        assert!(parse("-info").unwrap().info);
    }

    #[test]
    fn refusals() {
        assert_eq!(
            parse("-nope start"),
            Err(FlagError::Unknown("-nope".into()))
        );
        assert_eq!(parse("-id"), Err(FlagError::NoValue("-id".into())));
        assert_eq!(parse("start now"), Err(FlagError::Extra("now".into())));
        assert_eq!(
            parse("-debug=maybe start"),
            Err(FlagError::NotBool("-debug=maybe".into(), "maybe".into()))
        );
    }
}
