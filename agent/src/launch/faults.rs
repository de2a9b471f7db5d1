//! Failure reports of the processes that libcontainer forks.
//!
//! libcontainer returns only the outermost part of a child's error ("failed to prepare rootfs")
//! and logs the details through `tracing`. So the helper opens a pipe before it forks. The last
//! steps of the agent write their errors to it, the tracing subscriber below adds the details
//! of libcontainer, and the helper makes one answer of them.

use std::fmt::{self, Write as _};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::{Error, Kind};
use crate::stdio::stream::{self, Stream};
use crate::text::truncate;

/// A pipe takes a line of up to this length in one piece (PIPE_BUF).
const LINE: usize = 4096;

/// The reason for a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: Kind,
    pub message: String,
}

impl Fault {
    /// A request that is not valid.
    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault {
            kind: Kind::InvalidArgument,
            message: message.into(),
        }
    }

    /// A failed step that is not the fault of the request.
    pub fn internal(what: &str, error: impl fmt::Display) -> Fault {
        Fault {
            kind: Kind::Internal,
            message: format!("{what}: {error}"),
        }
    }
}

impl From<Fault> for Error {
    fn from(Fault { kind, message }: Fault) -> Error {
        Error::Fault { kind, message }
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    /// The reason, as a text for the user.
    Fault(Fault),
    /// An error event of libcontainer.
    Trace(String),
}

/// The writing end, copied into every forked process.
#[derive(Clone)]
pub struct Faults {
    pipe: Arc<OwnedFd>,
}

/// The reading end, in the helper.
pub struct Collected {
    pipe: std::fs::File,
}

/// Makes both ends, and collects the log messages of libcontainer.
pub fn collect() -> std::io::Result<(Faults, Collected)> {
    let (read, write) = stream::pipe()?;
    // A full pipe must not block the writer; what does not fit is lost.
    Stream::set_nonblocking(&write)?;
    Stream::set_nonblocking(&read)?;
    let faults = Faults {
        pipe: Arc::new(write),
    };
    let _ = tracing::subscriber::set_global_default(Tracer(faults.clone()));
    Ok((faults, Collected { pipe: read.into() }))
}

impl Faults {
    /// Reports why this process fails.
    pub fn report(&self, mut fault: Fault) {
        truncate(&mut fault.message, LINE / 2);
        self.write(&Line::Fault(fault));
    }

    fn write(&self, line: &Line) {
        if let Ok(mut json) = serde_json::to_vec(line) {
            json.push(b'\n');
            let _ = nix::unistd::write(&*self.pipe, &json);
        }
    }
}

impl Collected {
    /// The best reason for a failure: the message of the last steps if there is one, or
    /// `outermost` with libcontainer's log messages before it.
    pub fn explain(mut self, outermost: Fault) -> Fault {
        let mut text = Vec::new();
        // This ends with an error when the pipe is empty.
        let _ = self.pipe.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut traces: Vec<String> = Vec::new();
        for line in lines {
            match line {
                Line::Fault(fault) => return fault,
                Line::Trace(trace) if !traces.contains(&trace) => traces.push(trace),
                Line::Trace(_) => {}
            }
        }
        // The first is the innermost, next to the system call.
        let Fault { kind, mut message } = outermost;
        if let Some(first) = traces.first() {
            let _ = write!(message, ": {first}");
        }
        if let Some(second) = traces.get(1) {
            let _ = write!(message, " ({second})");
        }
        truncate(&mut message, LINE);
        Fault { kind, message }
    }
}

/// Writes libcontainer's error events to the pipe.
struct Tracer(Faults);

impl Subscriber for Tracer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = EventText::default();
        event.record(&mut text);
        let mut line = text.message;
        if !text.fields.is_empty() {
            let _ = write!(line, " [{}]", text.fields.trim_end());
        }
        truncate(&mut line, LINE / 2);
        self.0.write(&Line::Trace(line));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, "{name}={value:?} "),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test for all cases, since the subscriber is global.
    #[test]
    fn own_words_win_and_traces_explain() {
        let (_, collected) = collect().unwrap();
        let errno = nix::errno::Errno::ENODEV;
        tracing::error!(?errno, "failed to mount");
        tracing::error!("failed to prepare rootfs");
        let outer = |message: &str| Fault {
            kind: Kind::Internal,
            message: message.into(),
        };
        let fault = collected.explain(outer("create failed"));
        assert_eq!(fault.kind, Kind::Internal);
        assert_eq!(
            fault.message,
            "create failed: failed to mount [errno=ENODEV] (failed to prepare rootfs)"
        );

        let (read, write) = stream::pipe().unwrap();
        Stream::set_nonblocking(&read).unwrap();
        let faults = Faults {
            pipe: Arc::new(write),
        };
        let collected = Collected { pipe: read.into() };
        faults.write(&Line::Trace("noise".into()));
        faults.report(Fault::invalid("no such file"));
        assert_eq!(
            collected.explain(outer("outer")),
            Fault {
                kind: Kind::InvalidArgument,
                message: "no such file".into()
            }
        );
    }

    /// A pipe of which the tracing subscriber knows nothing.
    fn quiet() -> (Faults, Collected) {
        let (read, write) = stream::pipe().unwrap();
        Stream::set_nonblocking(&write).unwrap();
        Stream::set_nonblocking(&read).unwrap();
        let faults = Faults {
            pipe: Arc::new(write),
        };
        (faults, Collected { pipe: read.into() })
    }

    #[test]
    fn a_repeated_trace_is_told_once_and_no_more_than_two() {
        let (faults, collected) = quiet();
        for trace in ["inner", "inner", "middle", "outer"] {
            faults.write(&Line::Trace(trace.into()));
        }
        let fault = collected.explain(Fault::invalid("failed"));
        assert_eq!(fault, Fault::invalid("failed: inner (middle)"));
        let (_, nothing) = quiet();
        assert_eq!(
            nothing.explain(Fault::invalid("failed")),
            Fault::invalid("failed")
        );
    }

    #[test]
    fn a_fault_fits_in_one_piece_of_a_pipe() {
        let (faults, collected) = quiet();
        faults.report(Fault::invalid("x".repeat(1 << 20)));
        let told = collected.explain(Fault::invalid("outer")).message;
        assert_eq!(told, format!("{}...", "x".repeat(LINE / 2)));

        let (faults, collected) = quiet();
        tracing::subscriber::with_default(Tracer(faults), || {
            tracing::error!("{}", "y".repeat(1 << 20));
            tracing::warn!("not an error");
            tracing::error!("plain");
        });
        let told = collected.explain(Fault::invalid("outer")).message;
        assert_eq!(told, format!("outer: {}... (plain)", "y".repeat(LINE / 2)));

        // More than the pipe holds is lost, and nobody waits.
        let (faults, collected) = quiet();
        for n in 0..2000 {
            faults.write(&Line::Trace(format!("{n}{}", "z".repeat(1000))));
        }
        let told = collected.explain(Fault::invalid("outer")).message;
        assert!(told.starts_with("outer: 0zzz"), "{}", &told[..20]);
    }

    #[test]
    fn faults_are_errors_of_their_kind() {
        let internal = Fault::internal("read it", "broken");
        let expected = Fault {
            kind: Kind::Internal,
            message: "read it: broken".into(),
        };
        assert_eq!(internal, expected);
        let error = Error::from(Fault::invalid("no"));
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::InvalidArgument, "no".into())
        );
    }
}
