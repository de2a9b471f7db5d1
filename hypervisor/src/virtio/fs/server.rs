//! The threads that take FUSE requests from a queue.

use std::io;
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use vm_memory::GuestMemoryMmap;

use crate::jail::ThreadKind;

use super::super::ring::Chain;
use super::super::{Ring, SharedQueue, SharedRing};
use super::share::SharedDir;

/// Parses and answers FUSE requests. Shared by all queues.
pub(super) type FuseServer = Server<Arc<SharedDir>>;

/// Serves `ring` with this many threads.
pub(super) fn start(
    name: &str,
    threads: usize,
    ring: Ring,
    server: &Arc<FuseServer>,
) -> io::Result<SharedQueue> {
    let server = Arc::clone(server);
    let work = move |ring: &SharedRing, _: &mut ()| drain(ring, &server);
    SharedQueue::start(ThreadKind::Fs, name, threads, ring, work)
}

/// Serves requests until the queue is empty.
fn drain(ring: &SharedRing, server: &FuseServer) {
    let mem = ring.lock().memory();
    while let Some(chain) = ring.take(&mem) {
        let head = chain.head_index();
        let len = handle(server, &mem, chain);
        ring.complete(&mem, head, len);
    }
}

/// Serves one request; returns the length of the answer.
pub(super) fn handle<'m>(server: &FuseServer, mem: &'m GuestMemoryMmap, chain: Chain<'m>) -> u32 {
    let answer = Reader::from_descriptor_chain(mem, chain.clone()).and_then(|reader| {
        let writer = VirtioFsWriter::new(mem, chain)?;
        Ok((reader, writer))
    });
    let result = match answer {
        Ok((reader, writer)) => server
            .handle_message(reader, Writer::VirtioFs(writer), None, None)
            .map_err(|err| err.to_string()),
        Err(err) => Err(err.to_string()),
    };
    match result {
        Ok(len) => u32::try_from(len).unwrap_or(0),
        Err(err) => {
            log::debug!("Bad FUSE request: {err}");
            0
        }
    }
}
