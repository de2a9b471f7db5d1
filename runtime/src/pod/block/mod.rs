//! Block devices of the host in containers: each is a disk of the VM, attached for the first
//! container that asks for it and detached with the last.
//!
//! ```text
//!   spec: device b 7:0 ─▶ /dev/loop0 ─ opened here ─▶ VM, slot 5 ─▶ agent: vda, 254:0
//!                                                     container: the same path, b 254:0
//! ```
//!
//! A spec asks for a device by an entry of `linux.devices` together with a device rule for
//! exactly this device, as `ctr run --device` and Kubernetes' block volumes do, or by a bind
//! mount of its node. The spec of a privileged container lists all devices of the host with one
//! rule for all: that does not count, so it does not get the host's disks.

mod host;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use hypervisor::Extra;
use oci_spec::runtime::Spec;
use protos::agent as api;

use crate::error::{DeviceProblem, Error, GuestError, Result};
use crate::pod::vm::GuestVm;
use crate::sync::lock;

pub(crate) use spec::wanted;

/// Major and minor number.
pub(crate) type Number = (u32, u32);

/// A block device that a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its number on the host.
    pub(crate) number: Number,
    /// Its path in the container.
    pub(crate) path: PathBuf,
    /// Whether the container may only read it.
    pub(crate) read_only: bool,
    /// The index of the bind mount that asks for it; `None` for a device of the spec.
    pub(crate) mount: Option<usize>,
}

/// A disk in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its name in the guest's `/dev`.
    pub(crate) name: String,
    /// Its number in the guest.
    pub(crate) number: Number,
}

/// The attached disks of a pod's VM, by the host's number.
#[derive(Debug, Default)]
pub(crate) struct Disks(Mutex<BTreeMap<Number, Attached>>);

/// A block device of the host that is attached to the VM.
#[derive(Debug)]
struct Attached {
    slot: u32,
    disk: Disk,
    read_only: bool,
    /// The containers that use it.
    users: BTreeSet<String>,
}

impl Disks {
    /// Attaches the block devices that a container's spec asks for to the VM, and puts the
    /// guest's numbers into the guest's spec, which is translated otherwise. The caller holds
    /// the operation lock. [`Disks::detach`] undoes it, also after a failure.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this VM cannot have more devices; [`Error::Device`], naming
    /// the device, if it cannot be used; the hypervisor's and the agent's.
    pub(crate) async fn attach(
        &self,
        vm: &GuestVm,
        container: &str,
        wanted: &[Wanted],
        spec: &mut Spec,
    ) -> Result<()> {
        let mut disks = BTreeMap::new();
        for device in wanted {
            if !vm.can_attach {
                return Err(Error::Unsupported(format!(
                    "a block device of the host ({}) in a VM without hot-plug (hypervisor = \"kvm\" has it)",
                    device.path.display()
                )));
            }
            let disk = self.attach_one(vm, container, device).await?;
            disks.insert(device.number, disk);
        }
        spec::translate(spec, wanted, &disks);
        Ok(())
    }

    async fn attach_one(&self, vm: &GuestVm, container: &str, wanted: &Wanted) -> Result<Disk> {
        if let Some(there) = lock(&self.0).get_mut(&wanted.number) {
            if there.read_only && !wanted.read_only {
                return Err(host::refusal(wanted, DeviceProblem::ReadOnly));
            }
            there.users.insert(container.to_owned());
            return Ok(there.disk.clone());
        }
        let device = host::open(wanted)?;
        let read_only = device.read_only;
        let (major, minor) = wanted.number;
        let slot = vm
            .attach(Extra::Block {
                file: device.file,
                read_only,
                id: format!("{major}:{minor}"),
            })
            .await?;
        let request = api::DeviceRequest {
            slot,
            ..Default::default()
        };
        let found = vm.unless_gone(vm.agent.attach_device(request)).await;
        let disk = found.and_then(|answer| checked(&answer));
        let Ok(disk) = disk else {
            take_back(vm, slot).await;
            return disk;
        };
        log::info!("Block device {major}:{minor} of the host is {disk:?} in slot {slot}");
        let attached = Attached {
            slot,
            disk: disk.clone(),
            read_only,
            users: BTreeSet::from([container.to_owned()]),
        };
        lock(&self.0).insert(wanted.number, attached);
        Ok(disk)
    }

    /// Detaches the disks that only this container uses. The caller holds the operation lock,
    /// and the container has been removed from the guest.
    pub(crate) async fn detach(&self, vm: &GuestVm, container: &str) {
        let mut unused = Vec::new();
        lock(&self.0).retain(|_, attached| {
            let used = attached.users.remove(container);
            let unneeded = used && attached.users.is_empty();
            if unneeded {
                unused.push(attached.slot);
            }
            !unneeded
        });
        for slot in unused {
            take_back(vm, slot).await;
        }
    }
}

/// Detaches one disk. The devices of a VM that is gone are gone, too.
async fn take_back(vm: &GuestVm, slot: u32) {
    if vm.check().is_err() {
        return;
    }
    let request = api::DeviceRequest {
        slot,
        ..Default::default()
    };
    // The disk is detached even if the guest does not release it.
    let gone = vm.unless_gone(vm.agent.detach_device(request)).await;
    let taken = vm.detach(slot).await;
    for error in [gone.map(drop).err(), taken.err()].into_iter().flatten() {
        log::warn!("Pod {}: the disk in slot {slot}: {error}", vm.pod());
    }
}

/// Checks the agent's answer about a disk.
fn checked(answer: &api::AttachDeviceResponse) -> Result<Disk> {
    let plain = |name: &str| {
        (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if answer.major == 0 || !plain(&answer.name) {
        let name = answer.name.clone();
        return Err(GuestError::Disk { name }.into());
    }
    Ok(Disk {
        name: answer.name.clone(),
        number: (answer.major, answer.minor),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_name_what_is_no_disk() {
        let answer = |name: &str, major| api::AttachDeviceResponse {
            name: name.into(),
            major,
            minor: 16,
            ..Default::default()
        };
        let disk = checked(&answer("vdb", 254)).unwrap();
        assert_eq!((disk.name.as_str(), disk.number), ("vdb", (254, 16)));
        for bad in ["", "..", "../etc", "a/b", &"v".repeat(33)] {
            assert!(checked(&answer(bad, 254)).is_err(), "{bad}");
        }
        assert!(checked(&answer("eth0", 0)).is_err());
    }
}
