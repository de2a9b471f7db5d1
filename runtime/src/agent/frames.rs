//! The agent's side of the connection, checked before ttrpc's client sees it.
//!
//! ttrpc's client trusts its server: a DATA frame as the answer to a unary call leaves that
//! call registered for ever, and an answer may be of any size. All calls of `agent.proto` are
//! unary. So every frame must be a RESPONSE of limited size to a call that waits for it. Any
//! other frame comes from a broken agent: it ends the connection, and with it the VM.
//!
//! A frame is a header and its payload (ttrpc's PROTOCOL.md, "Message Frame").

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use protobuf::CodedInputStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, MessageHeader,
};

/// The longest answer, errors included, of a call that is not in [`LISTS`]. Decoding it takes
/// some dozen times as much memory for a moment.
const ANSWER: u32 = 16 << 10;

/// The methods whose answers are lists, and their longest answers.
const LISTS: [(&str, u32); 2] = [
    ("ListProcesses", protos::MAX_PROCESS_LIST as u32),
    ("Stats", 64 << 10),
];

/// The largest number of unanswered calls. Each process has one call that waits for its end,
/// and a call past its deadline stays until the agent answers it.
const MAX_UNANSWERED: usize = 65_536;

/// The length of a request's beginning that holds its method, which follows the service.
const METHOD_WITHIN: usize = 128;

/// A violation of the protocol by the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// A frame that is not a RESPONSE.
    #[error("the agent broke its protocol: it sent a frame of type {0} instead of an answer")]
    Type(u8),
    /// An answer to a number that was not asked, or was answered before.
    #[error(
        "the agent broke its protocol: it answered call {0}, which is not waiting for an answer"
    )]
    Unasked(u32),
    /// An answer longer than the limit of its call.
    #[error(
        "the agent broke its protocol: it sent an answer of {length} bytes, at most {most} are allowed"
    )]
    Length {
        /// The length of the answer.
        length: u32,
        /// Its limit.
        most: u32,
    },
    /// Too many calls are unanswered.
    #[error("the agent broke its protocol: it has left {MAX_UNANSWERED} calls without an answer")]
    Silent,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, broken)
    }
}

/// A connection to an agent; reads fail once the agent breaks the protocol.
///
/// ttrpc's two halves share it under a lock, so that a call is registered before its answer can
/// be read.
pub(crate) struct Checked<S> {
    stream: S,
    requests: Frames,
    answers: Frames,
    /// The longest answer to each call that waits for one.
    waiting: HashMap<u32, u32>,
    broken: Option<Broken>,
}

impl<S> Checked<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            requests: Frames::new(METHOD_WITHIN),
            answers: Frames::new(0),
            waiting: HashMap::new(),
            broken: None,
        }
    }

    fn sent(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let waiting = &mut self.waiting;
        self.requests.pass(bytes, |header, payload| {
            if header.type_ == MESSAGE_TYPE_REQUEST {
                if waiting.len() >= MAX_UNANSWERED {
                    return Err(Broken::Silent);
                }
                waiting.insert(header.stream_id, longest_answer(payload));
            }
            Ok(())
        })
    }

    fn received(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let waiting = &mut self.waiting;
        self.answers.pass(bytes, |header, _| {
            if header.type_ != MESSAGE_TYPE_RESPONSE {
                return Err(Broken::Type(header.type_));
            }
            let most = waiting.remove(&header.stream_id);
            let most = most.ok_or(Broken::Unasked(header.stream_id))?;
            if header.length > most {
                let length = header.length;
                return Err(Broken::Length { length, most });
            }
            Ok(())
        })
    }
}

/// The longest answer to a request, by its method.
fn longest_answer(request: &[u8]) -> u32 {
    let method = method(request);
    let list = LISTS
        .iter()
        .find(|(name, _)| Some(*name) == method.as_deref());
    list.map_or(ANSWER, |(_, most)| *most)
}

/// Reads the method from a request. ttrpc's `Request` has the service as field 1 and the method
/// as field 2, and fields are written in order.
fn method(request: &[u8]) -> Option<String> {
    /// Wire type 2: a length, then as many bytes.
    const METHOD: u32 = 2 << 3 | 2;
    let mut fields = CodedInputStream::from_bytes(request);
    let _service = fields.read_raw_tag_or_eof().ok()?;
    fields.read_string().ok()?;
    match fields.read_raw_tag_or_eof().ok()? {
        Some(METHOD) => fields.read_string().ok(),
        _ => None,
    }
}

/// Finds the frames in one direction of a connection.
struct Frames {
    /// The number of bytes of a payload that are kept.
    peek: usize,
    /// The bytes so far of the header and of the kept part.
    head: Vec<u8>,
    /// The number of bytes of the payload that are still to come.
    left: usize,
}

impl Frames {
    fn new(peek: usize) -> Self {
        Self {
            peek,
            head: Vec::with_capacity(MESSAGE_HEADER_LENGTH + peek),
            left: 0,
        }
    }

    /// Calls `look` with each frame's header and the kept part of its payload, once both have
    /// passed.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        mut look: impl FnMut(MessageHeader, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let wanted = match self.left {
                0 => self.head_length() - self.head.len(),
                left => left,
            };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= part.len();
                continue;
            }
            self.head.extend_from_slice(part);
            // The header says how many more bytes are to be kept.
            if self.head.len() == self.head_length() {
                let (header, payload) = self.head.split_at(MESSAGE_HEADER_LENGTH);
                let header = MessageHeader::from(header);
                look(header, payload)?;
                self.left = header.length as usize - payload.len();
                self.head.clear();
            }
        }
        Ok(())
    }

    /// The length of the header and the kept part, as far as it is known.
    fn head_length(&self) -> usize {
        let length = match self.head.get(..MESSAGE_HEADER_LENGTH) {
            Some(header) => MessageHeader::from(header).length as usize,
            None => 0,
        };
        MESSAGE_HEADER_LENGTH + length.min(self.peek)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Checked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Err(broken) = self.received(&buffer.filled()[before..]) {
            buffer.set_filled(before);
            self.broken = Some(broken);
            return Poll::Ready(Err(broken.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Checked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written
            && let Err(broken) = self.sent(&bytes[..n])
        {
            self.broken = Some(broken);
            return Poll::Ready(Err(broken.into()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use protobuf::Message;
    use ttrpc::proto::{MESSAGE_TYPE_DATA, Request};

    fn frame(header: MessageHeader, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from(header);
        frame.extend_from_slice(payload);
        frame
    }

    fn request(stream: u32, method: &str, payload: usize) -> Vec<u8> {
        let request = Request {
            service: "rust_kata.agent.v1.Agent".into(),
            method: method.into(),
            payload: vec![7; payload],
            ..Default::default()
        };
        let payload = request.write_to_bytes().unwrap();
        frame(
            MessageHeader::new_request(stream, payload.len() as u32),
            &payload,
        )
    }

    fn answer(stream: u32, length: usize) -> Vec<u8> {
        frame(
            MessageHeader::new_response(stream, length as u32),
            &vec![0; length],
        )
    }

    #[test]
    fn answers_are_found_however_the_bytes_come() {
        let asked = [request(1, "Stats", 5000), request(3, "StartContainer", 0)].concat();
        let answered = [answer(3, 0), answer(1, 20_000)].concat();
        for piece in [1, 7, 10, 11, 137, usize::MAX] {
            let mut checked = Checked::new(());
            for bytes in asked.chunks(piece.min(asked.len())) {
                checked.sent(bytes).unwrap();
            }
            assert_eq!(checked.waiting.len(), 2, "in pieces of {piece}");
            for bytes in answered.chunks(piece.min(answered.len())) {
                checked.received(bytes).unwrap();
            }
            assert!(checked.waiting.is_empty(), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told_by_what_it_is() {
        let after = |asked: &[u8], answered: &[u8]| {
            let mut checked = Checked::new(());
            checked.sent(asked).unwrap();
            checked.received(answered)
        };
        let asked = request(1, "WaitProcess", 10);
        let data = frame(MessageHeader::new_data(1, 0), &[]);
        assert_eq!(after(&asked, &data), Err(Broken::Type(MESSAGE_TYPE_DATA)));
        assert_eq!(after(&asked, &answer(3, 0)), Err(Broken::Unasked(3)));
        let twice = [answer(1, 1), answer(1, 1)].concat();
        assert_eq!(after(&asked, &twice), Err(Broken::Unasked(1)));
        let (length, most) = (ANSWER + 1, ANSWER);
        assert_eq!(
            after(&asked, &answer(1, length as usize)),
            Err(Broken::Length { length, most })
        );
        // A service name that hides the method does not raise the limit.
        let hidden = request(1, &"x".repeat(METHOD_WITHIN), 0);
        assert_eq!(longest_answer(&hidden[MESSAGE_HEADER_LENGTH..]), ANSWER);
    }

    #[test]
    fn calls_that_are_never_answered_end_it() {
        let mut checked = Checked::new(());
        let call = request(0, "Stats", 0);
        for n in 0..MAX_UNANSWERED as u32 {
            let mut call = call.clone();
            call[4..8].copy_from_slice(&(2 * n + 1).to_be_bytes());
            checked.sent(&call).unwrap();
        }
        assert_eq!(checked.sent(&call), Err(Broken::Silent));
    }
}
