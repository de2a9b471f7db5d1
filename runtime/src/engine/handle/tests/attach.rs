//! Attachments: the first message, the answers to it, and the streams that follow.

use std::io::{Read, Write};

use protos::management::attach_output;
use tokio::net::UnixStream;

use super::*;
use crate::engine::handle::attach::{AttachRequest, Attached, ClientStreams, ProcessOutput};
use crate::engine::records::exec::{ExecRequest, PreservedFd};
use crate::engine::wire::attach;
use crate::engine::wire::errors::to_result;
use crate::error::DescriptorError;
use crate::stdio::descriptor::Direction;

async fn send(to: &mut UnixStream, kind: attach_output::Kind) {
    let message = api::AttachOutput {
        kind: Some(kind),
        ..Default::default()
    };
    attach::send(to, &message).await.unwrap();
}

fn attached(exec: &str) -> attach_output::Kind {
    attach_output::Kind::Attached(api::Attached {
        exec: exec.to_owned(),
        ..Default::default()
    })
}

fn failed(error: &Error) -> attach_output::Kind {
    attach_output::Kind::Failed(to_result(String::new(), Some(error), false))
}

/// The fields of a first message.
fn fields(message: &api::AttachInput) -> String {
    protobuf::text_format::print_to_string(message)
}

/// The next message of a client.
async fn next(from: &mut UnixStream) -> String {
    let message: Option<api::AttachInput> = attach::receive(from).await.unwrap();
    fields(&message.expect("there is one"))
}

fn fd(number: u32) -> PreservedFd {
    PreservedFd {
        number,
        direction: Direction::Out,
    }
}

/// The streams of a client in this order: input, output, error output.
fn streams(streams: [bool; 3], size: Option<(u32, u32)>) -> ClientStreams {
    let [stdin, stdout, stderr] = streams;
    ClientStreams {
        stdin,
        stdout,
        stderr,
        size,
    }
}

impl Lab {
    /// An attachment to the init of `a`; also the owner's end of it, and its first message.
    async fn attach(
        &self,
        owner: &PlayedOwner,
        how: &AttachRequest,
        answer: Option<attach_output::Kind>,
    ) -> (Result<Attached>, UnixStream, String, usize) {
        let (attached, (stream, first, fds)) = tokio::join!(self.pod.attach("a", how), async {
            let (mut stream, first, fds) = owner.attached().await;
            if let Some(answer) = answer {
                send(&mut stream, answer).await;
            }
            (stream, first, fds)
        });
        (attached, stream, fields(&first), fds)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_begins_with_the_streams_of_the_client() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    for (how, expected) in [
        (AttachRequest::default(), r#"request {container: "a"}"#),
        (
            AttachRequest {
                streams: streams([true, false, false], Some((7, 8))),
                start: true,
                ..AttachRequest::default()
            },
            r#"request {container: "a" stdin: true start: true width: 7 height: 8}"#,
        ),
        (
            AttachRequest {
                streams: streams([false, true, false], None),
                ..AttachRequest::default()
            },
            r#"request {container: "a" stdout: true}"#,
        ),
        (
            AttachRequest {
                streams: streams([false, false, true], None),
                preserve_fds: vec![fd(3), fd(4)],
                ..AttachRequest::default()
            },
            r#"request {container: "a" stderr: true preserve_fds {number: 3 direction: OUT} preserve_fds {number: 4 direction: OUT}}"#,
        ),
        (
            AttachRequest {
                streams: ClientStreams::ALL,
                ..AttachRequest::default()
            },
            r#"request {container: "a" stdin: true stdout: true stderr: true}"#,
        ),
    ] {
        let (got, _stream, first, fds) = lab.attach(&owner, &how, Some(attached(""))).await;
        let got = got.unwrap();
        assert_eq!(first, expected);
        assert_eq!(got.exec, None);
        let ends = how.preserve_fds.len();
        assert_eq!((got.descriptors.len(), fds), (ends, ends));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_output_travel_until_the_end() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let how = AttachRequest::default();
    let (got, mut stream, ..) = lab.attach(&owner, &how, Some(attached(""))).await;
    let mut got = got.unwrap();
    got.input.write(b"in".to_vec()).await.unwrap();
    got.input.resize(5, 6).await.unwrap();
    got.input.end().await.unwrap();
    let heard = [
        next(&mut stream).await,
        next(&mut stream).await,
        next(&mut stream).await,
    ];
    assert_eq!(
        heard,
        [
            r#"stdin: "in""#,
            "resize {width: 5 height: 6}",
            "stdin_end {}"
        ]
    );
    send(&mut stream, attach_output::Kind::Stdout(b"out".to_vec())).await;
    send(&mut stream, attach_output::Kind::Stderr(b"err".to_vec())).await;
    send(&mut stream, attach_output::Kind::ExitCode(3)).await;
    for expected in [
        ProcessOutput::Stdout(b"out".to_vec()),
        ProcessOutput::Stderr(b"err".to_vec()),
        ProcessOutput::Exited(3),
    ] {
        assert_eq!(got.output.next().await.unwrap(), expected);
    }
    send(&mut stream, failed(&Error::not_found("exec", "x"))).await;
    assert_eq!(
        got.output.next().await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    // The owner is killed.
    drop(stream);
    for _ in 0..2 {
        let gone = got.output.next().await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Unavailable);
    }
    let gone = got.input.end().await.unwrap_err();
    assert!(
        matches!(
            gone,
            Error::Io {
                action: "write to",
                ..
            }
        ),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_process_is_an_error() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let how = AttachRequest::default();
    let nothing = attach_output::Kind::Failed(api::Result::default());
    for (answer, kind) in [
        (
            failed(&Error::not_found("container", "a")),
            ErrorKind::NotFound,
        ),
        (nothing, ErrorKind::Unavailable),
        (attach_output::Kind::ExitCode(0), ErrorKind::Unavailable),
    ] {
        let (got, ..) = lab.attach(&owner, &how, Some(answer)).await;
        assert_eq!(got.unwrap_err().kind(), kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_needs_an_owner_that_stays() {
    let lab = Lab::new(&["a"]).await;
    let is_refused = |error: Error, verb: &str| match error {
        Error::WrongState {
            what: "container",
            id,
            operation,
            state,
        } => {
            assert_eq!((&*id, operation, &*state), ("a", verb, "not running"));
        }
        other => panic!("{other:?}"),
    };
    let how = AttachRequest::default();
    is_refused(lab.pod.attach("a", &how).await.unwrap_err(), "attach to");
    let request = ExecRequest::default();
    let none = lab.pod.exec("a", &request, ClientStreams::ALL).await;
    is_refused(none.unwrap_err(), "run a process in");
    let none = lab.pod.remove_exec("a", "x", true).await.unwrap_err();
    assert!(
        matches!(none, Error::NotFound { what: "exec", .. }),
        "{none:?}"
    );

    // It ends without an answer, or says that it ends: then it is as if there was none.
    for answer in [None, Some(failed(&Error::OwnerLeaving))] {
        let owner = lab.owned().await;
        let (got, ()) = tokio::join!(lab.pod.attach("a", &how), async {
            let (mut stream, ..) = owner.attached().await;
            owner.leave();
            if let Some(answer) = answer {
                send(&mut stream, answer).await;
            }
        });
        is_refused(got.unwrap_err(), "attach to");
    }
}

fn request() -> ExecRequest {
    ExecRequest {
        command: vec!["sh".into()],
        terminal: true,
        preserve_fds: vec![fd(5)],
        ..ExecRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_process_takes_one_message_with_its_descriptors() {
    let lab = Lab::new(&["a"]).await;
    let (owner, wanted) = (lab.owned().await, request());
    let (got, (stream, first, fds)) = tokio::join!(
        lab.pod
            .exec("a", &wanted, streams([true, false, true], Some((7, 8)))),
        async {
            let (mut stream, first, fds) = owner.attached().await;
            send(&mut stream, attached("x1")).await;
            (stream, first, fds)
        }
    );
    let mut got = got.unwrap();
    assert_eq!(
        fields(&first),
        r#"exec {process {container: "a" command: "sh" terminal: true preserve_fds {number: 5 direction: OUT}} stdin: true stderr: true size {width: 7 height: 8}}"#
    );
    assert_eq!(
        (got.exec.as_deref(), fds, got.descriptors.len()),
        (Some("x1"), 1, 1)
    );
    assert!(owner.heard().is_empty());
    drop(stream);
    // The end of its descriptor went with the owner.
    let mut end = got.descriptors.remove(0);
    assert!(end.write_all(b"x").is_err() || end.read(&mut [0]).unwrap() == 0);

    let plain = ExecRequest::default();
    let (got, first) = tokio::join!(
        lab.pod
            .exec("a", &plain, streams([false, true, false], None)),
        async {
            let (mut stream, first, _) = owner.attached().await;
            send(&mut stream, attached("x2")).await;
            first
        }
    );
    got.unwrap();
    assert_eq!(
        fields(&first),
        r#"exec {process {container: "a"} stdout: true}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_an_earlier_build_takes_two_messages() {
    let lab = Lab::new(&["a"]).await;
    let (owner, wanted) = (lab.owned().await, request());
    let created = api::ProcessRequest {
        container: "a".into(),
        exec: "x1".into(),
        ..Default::default()
    };
    owner.answer("create_exec", &created);
    let earlier = Error::Remote {
        kind: ErrorKind::InvalidArgument,
        message: "An attachment begins with its request".into(),
    };
    let (got, (second, fds)) = tokio::join!(
        lab.pod
            .exec("a", &wanted, streams([true, true, true], Some((7, 8)))),
        async {
            let (mut first, ..) = owner.attached().await;
            send(&mut first, failed(&earlier)).await;
            let (mut stream, second, fds) = owner.attached().await;
            send(&mut stream, attached("")).await;
            (second, fds)
        }
    );
    let got = got.unwrap();
    assert_eq!(
        (got.exec.as_deref(), got.descriptors.len(), fds),
        (Some("x1"), 1, 1)
    );
    assert_eq!(
        owner.heard(),
        [
            r#"create_exec container: "a" command: "sh" terminal: true preserve_fds {number: 5 direction: OUT}"#
        ]
    );
    assert_eq!(
        fields(&second),
        r#"request {container: "a" exec: "x1" stdin: true stdout: true stderr: true start: true width: 7 height: 8 preserve_fds {number: 5 direction: OUT}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_be_run_is_the_owners_error() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let command = Error::Command {
        exit_code: 127,
        message: "no such command".into(),
    };
    let plain = ExecRequest::default();
    let (got, ()) = tokio::join!(lab.pod.exec("a", &plain, ClientStreams::ALL), async {
        let (mut stream, ..) = owner.attached().await;
        send(&mut stream, failed(&command)).await;
    });
    let error = got.unwrap_err();
    assert!(
        matches!(error, Error::Command { exit_code: 127, .. }),
        "{error:?}"
    );
    // It may have run: it is not repeated.
    let (got, ()) = tokio::join!(lab.pod.exec("a", &plain, ClientStreams::ALL), async {
        drop(owner.attached().await);
    });
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(owner.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_process_has_an_id_and_no_descriptors() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let plain = ExecRequest::default();
    let (id, first) = tokio::join!(lab.pod.exec_detached("a", &plain), async {
        let (mut stream, first, _) = owner.attached().await;
        send(&mut stream, attached("x1")).await;
        first
    });
    assert_eq!(id.unwrap(), "x1");
    assert_eq!(fields(&first), r#"exec {process {container: "a"}}"#);

    let with_fd = lab.pod.exec_detached("a", &request()).await.unwrap_err();
    let Error::Descriptor(DescriptorError::NotGiven {
        process,
        wanted,
        given,
    }) = with_fd
    else {
        panic!("{with_fd:?}");
    };
    assert_eq!((&*process, wanted, given), ("the process in a", vec![5], 0));
}
