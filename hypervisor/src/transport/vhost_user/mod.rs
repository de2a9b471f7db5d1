//! vhost-user: another process runs the VM and passes its memory and queues.
//!
//! One thread per device answers the front end's requests on a connected socket. A queue runs
//! from the moment when its description is complete until the front end takes its position back
//! (`GET_VRING_BASE`) or disables it; see "Ring states" in the vhost-user specification. A
//! pause of the VM is a stop and a start with the same positions.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod requests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{BackendReqHandler, Error, Result};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use crate::event::EventFd;
use crate::jail::{self, ThreadKind};
use crate::sync::lock;
use crate::virtio::{Device, Interrupt, Memory};

/// A device on a vhost-user socket. Dropping it disconnects and stops the device.
pub struct VhostUser {
    socket: UnixStream,
    connected: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VhostUser {
    /// Serves `device` on a connected socket.
    pub fn serve(device: Box<dyn Device>, socket: UnixStream) -> io::Result<VhostUser> {
        let ours = socket.try_clone()?;
        let theirs = socket.try_clone()?;
        let connected = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&connected);
        let name = format!("vu-{}", device.kind().name());
        let thread = jail::spawn(ThreadKind::VhostUser, &name, move || {
            let handler = Arc::new(Mutex::new(Backend::new(device)));
            let mut requests = BackendReqHandler::from_stream(socket, Arc::clone(&handler));
            let end = loop {
                if let Err(err) = requests.handle_request() {
                    break err;
                }
            };
            flag.store(false, Ordering::Release);
            // Other descriptors keep the socket open; the front end must still see its end.
            let _ = theirs.shutdown(std::net::Shutdown::Both);
            match end {
                Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_) => {
                    log::info!("The hypervisor disconnected");
                }
                err => log::error!("vhost-user: {err}"),
            }
            lock(&handler).stop_all();
        })?;
        Ok(VhostUser {
            socket: ours,
            connected,
            thread: Some(thread),
        })
    }

    /// Whether the hypervisor is connected.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The largest accepted queue. QEMU's virtio-mmio offers the driver its own maximum, whatever
/// the device prefers.
const MAX_QUEUE: u16 = 1024;

/// A region at its address in the front end.
struct Region {
    user: u64,
    size: u64,
    guest: u64,
}

/// The front end's settings of a queue.
#[derive(Default)]
struct Vring {
    size: u16,
    /// Guest addresses of the descriptor table, available ring and used ring.
    rings: Option<(u64, u64, u64)>,
    next_avail: u16,
    kick: Option<OwnedFd>,
    call: Arc<CallFd>,
    enabled: bool,
    running: bool,
}

/// The interrupt of a queue. The front end may change its descriptors at any time.
#[derive(Default)]
struct CallFd {
    call: Mutex<Option<File>>,
    error: Mutex<Option<File>>,
}

impl Interrupt for CallFd {
    fn signal(&self) {
        signal(&self.call);
    }

    fn failed(&self) {
        signal(&self.error);
    }
}

fn signal(event: &Mutex<Option<File>>) {
    if let Some(file) = &*lock(event) {
        let one = 1u64.to_ne_bytes();
        // A full counter wakes the reader, too.
        match nix::unistd::write(file, &one) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
            Err(err) => log::warn!("Cannot signal the driver: {err}"),
        }
    }
}

struct Backend {
    device: Box<dyn Device>,
    features: u64,
    mem: Memory,
    regions: Vec<Region>,
    vrings: Vec<Vring>,
}

impl Backend {
    fn new(device: Box<dyn Device>) -> Backend {
        let vrings = device
            .queue_sizes()
            .iter()
            .map(|_| Vring::default())
            .collect();
        Backend {
            device,
            features: 0,
            mem: Memory::new(GuestMemoryMmap::new()),
            regions: Vec::new(),
            vrings,
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn vring(&mut self, index: usize) -> Result<&mut Vring> {
        self.vrings.get_mut(index).ok_or(Error::InvalidParam)
    }

    /// Starts queue `index` if its description is complete, stops it if it must not run.
    fn update(&mut self, index: usize) -> Result<()> {
        // Without the protocol features, queues run without being enabled.
        let explicit = self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        let event_idx = self.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let vring = &mut self.vrings[index];
        let wanted = vring.enabled || !explicit;
        if vring.running && !wanted {
            self.stop(index);
            return Ok(());
        }
        let (Some((desc, avail, used)), Some(kick)) = (vring.rings, &vring.kick) else {
            return Ok(());
        };
        if vring.running || !wanted || vring.size == 0 {
            return Ok(());
        }

        let mut queue = Queue::new(vring.size).map_err(other)?;
        queue
            .try_set_desc_table_address(GuestAddress(desc))
            .map_err(other)?;
        queue
            .try_set_avail_ring_address(GuestAddress(avail))
            .map_err(other)?;
        queue
            .try_set_used_ring_address(GuestAddress(used))
            .map_err(other)?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(vring.next_avail);
        queue.set_ready(true);
        // The front end only passes the next available index; the next used index is in the
        // ring.
        let used_idx = queue
            .used_idx(&*self.mem.memory(), Ordering::Acquire)
            .map_err(other)?;
        queue.set_next_used(used_idx.0);

        let kick = event_fd(kick.try_clone().map_err(Error::ReqHandlerError)?);
        let call: Arc<dyn Interrupt> = Arc::clone(&vring.call) as _;
        self.device
            .start_queue(index, queue, self.mem.clone(), kick, call)
            .map_err(other)?;
        self.vrings[index].running = true;
        Ok(())
    }

    fn stop(&mut self, index: usize) {
        if !std::mem::take(&mut self.vrings[index].running) {
            return;
        }
        if let Some(queue) = self.device.stop_queue(index) {
            self.vrings[index].next_avail = queue.next_avail();
        }
    }

    fn stop_all(&mut self) {
        for index in 0..self.vrings.len() {
            self.stop(index);
        }
    }

    /// Translates an address of the front end to a guest address.
    fn translate(&self, user: u64) -> Result<u64> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset = user.checked_sub(region.user)?;
                (offset < region.size).then(|| region.guest + offset)
            })
            .ok_or(Error::InvalidParam)
    }
}

fn other(err: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(err))
}

fn event_fd(fd: OwnedFd) -> EventFd {
    // A read of a counter that another thread has just emptied must not block.
    if let Ok(flags) = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_GETFL) {
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        let _ = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_SETFL(flags));
    }
    EventFd::from(fd)
}

#[cfg(test)]
mod tests;
