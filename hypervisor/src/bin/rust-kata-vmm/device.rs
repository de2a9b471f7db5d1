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

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor::virtio::DeviceKind;
    use std::fs::{File, OpenOptions};

    const REGION: Option<(u64, u64)> = Some((4 << 30, 128 << 20));

    fn config(device: &dyn Device, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        device.read_config(at, &mut bytes);
        bytes
    }

    fn disk(read_only: bool, id: &str) -> DeviceConfig {
        let id = id.into();
        DeviceConfig::Block { read_only, id }
    }

    fn image(write: bool) -> OwnedFd {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let opened = OpenOptions::new().read(true).write(write).open(file.path());
        opened.unwrap().into()
    }

    #[test]
    fn a_disk_is_as_writable_as_its_file_has_to_be() {
        // VIRTIO_BLK_F_RO
        for (read_only, feature) in [(true, 1 << 5), (false, 0)] {
            let (device, control) =
                make(disk(read_only, "d"), vec![image(!read_only)], None).unwrap();
            assert_eq!(device.kind(), DeviceKind::Block);
            assert_eq!(device.features() & 1 << 5, feature);
            assert_eq!(config(&*device, 0, 8), 2048u64.to_le_bytes());
            assert!(control.is_none());
            let refused = make(disk(!read_only, "d"), vec![image(!read_only)], None);
            let said = refused.err().unwrap();
            assert!(said.starts_with("disk: invalid access mode"), "{said}");
        }
    }

    #[test]
    fn a_disk_has_one_file_and_a_name_that_fits() {
        for (files, said) in [(0, "0 descriptors, not 1"), (2, "2 descriptors, not 1")] {
            let files = (0..files).map(|_| image(true)).collect();
            let refused = make(disk(false, ""), files, None).err().unwrap();
            assert_eq!(refused, said);
        }
        let long = make(disk(false, &"x".repeat(21)), vec![image(true)], None);
        let said = long.err().unwrap();
        assert!(said.starts_with("disk: invalid disk id"), "{said}");
        assert!(make(disk(false, &"x".repeat(20)), vec![image(true)], None).is_ok());
    }

    #[test]
    fn plugged_memory_comes_in_blocks_of_two_mebibytes() {
        let (device, control) = make(DeviceConfig::Mem, vec![], REGION).unwrap();
        assert_eq!(device.kind(), DeviceKind::Mem);
        let fields: Vec<u64> = config(&*device, 0, 32)
            .chunks(8)
            .map(|field| u64::from_le_bytes(field.try_into().unwrap()))
            .collect();
        assert_eq!(fields, [2 << 20, 0, 4 << 30, 128 << 20]);
        let control = control.unwrap();
        assert!(control.resize(1 << 20).is_err());
        control.resize(2 << 20).unwrap();
        let none = make(DeviceConfig::Mem, vec![], None).err().unwrap();
        assert_eq!(none, "this machine has no memory to plug");
    }

    #[test]
    fn each_kind_is_made_as_described() {
        let dir = tempfile::tempdir().unwrap();
        let uds = dir.path().join("vsock");
        let fs = |dir: &std::path::Path| DeviceConfig::Fs {
            tag: "tag".into(),
            dir: dir.into(),
            files: 10,
        };
        let vsock = |uds: &std::path::Path| DeviceConfig::Vsock {
            cid: 7,
            uds: uds.into(),
        };
        for (described, kind, begin) in [
            (DeviceConfig::Rng, DeviceKind::Rng, &[0, 0, 0][..]),
            (DeviceConfig::Balloon, DeviceKind::Balloon, &[0, 0, 0]),
            (fs(dir.path()), DeviceKind::Fs, b"tag"),
            (vsock(&uds), DeviceKind::Vsock, &[7, 0, 0]),
        ] {
            let (device, control) = make(described, vec![], REGION).unwrap();
            assert_eq!(device.kind(), kind);
            assert_eq!(config(&*device, 0, 3), begin);
            assert!(control.is_none());
        }
        assert!(uds.exists());
        let nowhere = dir.path().join("none/vsock");
        for (described, said) in [
            (vsock(&nowhere), "cannot listen on "),
            (fs(&nowhere), "cannot share "),
        ] {
            let refused = make(described, vec![], None).err().unwrap();
            assert!(refused.starts_with(said), "{refused}");
            assert!(refused.contains(nowhere.to_str().unwrap()), "{refused}");
        }
        let net = DeviceConfig::Net {
            queues: 1,
            mac: [2; 6],
            mtu: None,
        };
        let file = File::open("/dev/null").unwrap().into();
        let refused = make(net, vec![file], None).err().unwrap();
        assert!(
            refused.starts_with("network: cannot ask what a tap is"),
            "{refused}"
        );
    }
}
