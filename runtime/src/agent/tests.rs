//! Calls to an agent that breaks the protocol; a thread plays the agent.

use super::*;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Socket;

use protobuf::Message;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE};
use ttrpc::proto::{MessageHeader, Response};

/// Plays an agent that answers call number N with `answer(N)`. Returns the number of calls that
/// it got before its connection ended.
fn agent(
    answer: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> (Agent, std::thread::JoinHandle<u32>) {
    let (host, mut guest) = Socket::pair().unwrap();
    let calls = std::thread::spawn(move || {
        let mut calls = 0;
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        while guest.read_exact(&mut header).is_ok() {
            let call = MessageHeader::from(header);
            let mut payload = vec![0; call.length as usize];
            guest.read_exact(&mut payload).unwrap();
            calls += 1;
            if guest.write_all(&answer(call.stream_id)).is_err() {
                break;
            }
        }
        calls
    });
    host.set_nonblocking(true).unwrap();
    let stream = UnixStream::from_std(host).unwrap();
    (Agent::new(stream, Timeouts::default()), calls)
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = MessageHeader::new_response(stream, payload.len() as u32);
    header.type_ = kind;
    [Vec::from(header), payload.to_vec()].concat()
}

fn refusal(text: &str) -> Vec<u8> {
    let status = ttrpc::get_status(Code::INTERNAL, text);
    let response = Response {
        status: Some(status).into(),
        ..Default::default()
    };
    response.write_to_bytes().unwrap()
}

/// Each call whose answer is not a RESPONSE leaves an entry in ttrpc's client. So only one such
/// answer is possible.
#[tokio::test]
async fn a_data_frame_for_an_answer_ends_the_connection() {
    let (agent, calls) = agent(|stream| frame(MESSAGE_TYPE_DATA, stream, b""));
    for _ in 0..1000 {
        let error = agent.forget_files(api::Empty::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    drop(agent);
    let heard = calls.join().unwrap();
    assert!(heard < 10, "the agent was asked {heard} times");
}

#[tokio::test]
async fn the_first_call_after_a_breach_names_it() {
    for (kind, length, problem) in [
        (MESSAGE_TYPE_DATA, 0, "a frame of type 3"),
        (MESSAGE_TYPE_RESPONSE, 1 << 20, "an answer of 1048576 bytes"),
        (9, 0, "a frame of type 9"),
    ] {
        let (agent, _) = agent(move |stream| frame(kind, stream, &vec![0; length]));
        let error = agent.next_event().await.unwrap_err().to_string();
        assert!(error.contains("broke its protocol"), "{error}");
        assert!(error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn an_answer_to_nothing_ends_the_connection() {
    let (agent, _) = agent(|stream| {
        let answer = frame(MESSAGE_TYPE_RESPONSE, stream, &refusal("no"));
        [answer.clone(), answer].concat()
    });
    let first = agent.next_event().await.unwrap_err();
    assert_eq!(first.to_string(), "no");
    let error = agent.next_event().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn words_of_the_guest_are_short_and_steer_nothing() {
    let text = format!("\x1b]0;owned\x07{}", "x".repeat(10_000));
    let (agent, _) = agent(move |stream| frame(MESSAGE_TYPE_RESPONSE, stream, &refusal(&text)));
    let error = agent.next_event().await.unwrap_err().to_string();
    assert!(error.starts_with("\\u{1b}]0;owned\\u{7}xxx"), "{error}");
    assert!(error.len() < MAX_ERROR + 100, "{}", error.len());
    assert!(error.ends_with("bytes more)"), "{error}");
}
