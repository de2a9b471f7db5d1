//! The guest's requests in the queue (virtio 1.2 §5.15.6).

use std::io::{Read, Write};
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::Handler;
use super::super::discard::discard;
use super::super::ring::Chain;
use super::MemState;
use super::blocks::MemResponse;

const REQUEST_LEN: usize = 24;
const RESPONSE_LEN: usize = 10;

/// Request types.
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Serves requests.
pub(super) struct Requests(pub Arc<MemState>);

impl Handler for Requests {
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        // A request without space for an answer is not executed.
        let Ok(mut answer) = chain.clone().writer(mem) else {
            return 0;
        };
        if answer.available_bytes() < RESPONSE_LEN {
            return 0;
        }
        let mut request = [0; REQUEST_LEN];
        let response = match chain.reader(mem).map(|mut r| r.read_exact(&mut request)) {
            Ok(Ok(())) => self.serve(mem, &request),
            _ => MemResponse::Error,
        };
        match answer.write_all(&encode(response)) {
            Ok(()) => RESPONSE_LEN as u32,
            Err(_) => 0,
        }
    }
}

impl Requests {
    fn serve(&self, mem: &GuestMemoryMmap, request: &[u8; REQUEST_LEN]) -> MemResponse {
        let [kind, addr, blocks] = fields(request);
        let discard = |start, len| discard(mem, GuestAddress(start), len);
        let mut state = self.0.blocks();
        let blocks = blocks as u16;
        let response = match kind as u16 {
            PLUG => state.plug(addr, blocks),
            UNPLUG => state.unplug(addr, blocks, discard),
            UNPLUG_ALL => state.unplug_all(discard),
            STATE => state.state(addr, blocks),
            _ => MemResponse::Error,
        };
        drop(state);
        if response == MemResponse::Ack {
            self.0.moved.notify_all();
        }
        response
    }
}

/// Type, address and number of blocks, each at the start of eight bytes; the rest is padding.
fn fields(request: &[u8; REQUEST_LEN]) -> [u64; 3] {
    let mut fields = [0; 3];
    for (field, bytes) in fields.iter_mut().zip(request.as_chunks().0) {
        *field = u64::from_le_bytes(*bytes);
    }
    fields
}

fn encode(response: MemResponse) -> [u8; RESPONSE_LEN] {
    let (kind, state) = match response {
        MemResponse::Ack => (0u16, 0u16),
        MemResponse::State(state) => (0, state as u16),
        MemResponse::Nack => (1, 0),
        MemResponse::Busy => (2, 0),
        MemResponse::Error => (3, 0),
    };
    let mut bytes = [0; RESPONSE_LEN];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&state.to_le_bytes());
    bytes
}
