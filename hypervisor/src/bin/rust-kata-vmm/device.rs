//! Makes devices from their descriptions.

use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;

use hypervisor::control::DeviceConfig;
use hypervisor::jail::{self, ThreadKind};
use hypervisor::virtio::Device;
use hypervisor::virtio::balloon::Balloon;
use hypervisor::virtio::block::{Block, BlockOptions};
use hypervisor::virtio::fs::Fs;
use hypervisor::virtio::mem::{Mem, MemControl, MemRegion};
use hypervisor::virtio::net::{Net, NetOptions};
use hypervisor::virtio::rng::Rng;
use hypervisor::virtio::vsock::Vsock;

/// The unit of plugged memory: at least a huge page of the host.
const BLOCK_SIZE: u64 = 2 << 20;

/// A device, and the control of its memory if it is a memory device.
pub type Made = (Box<dyn Device>, Option<MemControl>);

/// Makes the device that `config` describes from its descriptors. `region` is the range for
/// plugged memory.
pub fn make(
    config: DeviceConfig,
    files: Vec<OwnedFd>,
    region: Option<(u64, u64)>,
) -> Result<Made, String> {
    let device: Box<dyn Device> = match config {
        DeviceConfig::Vsock { cid, uds } => {
            let failed = |err| format!("cannot listen on {}: {err}", uds.display());
            Box::new(Vsock::new(cid, &uds).map_err(failed)?)
        }
        DeviceConfig::Fs { tag, dir, files } => {
            let failed = |err| format!("cannot share {}: {err}", dir.display());
            Box::new(Fs::new(&tag, &dir, files as usize).map_err(failed)?)
        }
        DeviceConfig::Block { read_only, id } => {
            let [file] = exactly(files)?;
            let options = BlockOptions {
                read_only,
                id,
                ..BlockOptions::default()
            };
            let open = move || Block::new(file.into(), options);
            Box::new(made_by(ThreadKind::Block, "disk", open)?)
        }
        DeviceConfig::Net { mac, mtu, .. } => {
            let taps = files.into_iter().map(Into::into).collect();
            let open = move || Net::new(taps, NetOptions { mac, mtu });
            Box::new(made_by(ThreadKind::Net, "network", open)?)
        }
        DeviceConfig::Rng => Box::new(Rng::new()),
        DeviceConfig::Balloon => Box::new(Balloon::new()),
        DeviceConfig::Mem => {
            let (addr, size) = region.ok_or("this machine has no memory to plug")?;
            let region = MemRegion {
                addr,
                size,
                block_size: BLOCK_SIZE,
            };
            let device = Mem::new(region).map_err(|err| err.to_string())?;
            let control = device.control();
            return Ok((Box::new(device), Some(control)));
        }
    };
    Ok((device, None))
}

fn exactly<const N: usize>(files: Vec<OwnedFd>) -> Result<[OwnedFd; N], String> {
    files
        .try_into()
        .map_err(|files: Vec<_>| format!("{} descriptors, not {N}", files.len()))
}

/// Makes a device in a thread that may access its files.
fn made_by<T, E>(
    kind: ThreadKind,
    name: &'static str,
    make: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String>
where
    T: Send + 'static,
    E: Display + Send + 'static,
{
    let made: io::Result<Result<T, E>> = jail::run(kind, name, move || Ok(make()));
    made.map_err(|err| err.to_string())?
        .map_err(|err| format!("{name}: {err}"))
}
