//! Growing and shrinking a pod's VM with the limits of its containers.
//!
//! ```text
//!   limits of all containers ─▶ Size ── memory: plug_memory ──▶ VM ── virtio-mem ──▶ guest
//!                                    └─ CPUs: OnlineCpuMem ───▶ agent ─ on, off line ─▶ guest
//! ```
//!
//! A VM keeps its initial size at least; the configuration sets its largest size (`max_vcpus`,
//! `max_memory_mib`). If the limits add up to more, the VM stays at its largest size, and the
//! containers' cgroups still enforce their limits.

use std::sync::Mutex;

use hypervisor::VmSpec;
use protos::agent as api;

use crate::container::limits::Limits;
use crate::error::{GuestError, Result};
use crate::pod::vm::GuestVm;
use crate::sync::lock;

const MIB: u64 = 1 << 20;
/// Linux plugs memory in blocks of this size.
const BLOCK_MIB: u64 = 128;

/// The initial and the largest size of a VM.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(super) vcpus: u32,
    pub(super) max_vcpus: u32,
    pub(super) memory_mib: u32,
    pub(super) hotplug_mib: u32,
    /// The part of the initial memory that is not for containers.
    pub(super) own_memory_mib: u32,
}

/// The size of a VM, as far as it can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    vcpus: u32,
    plugged_mib: u32,
}

impl Bounds {
    /// The bounds of a VM. `own_memory_mib` is its memory beside its containers' limits.
    pub(crate) fn of(spec: &VmSpec, own_memory_mib: u32, can_resize: bool) -> Self {
        Self {
            vcpus: spec.vcpus,
            max_vcpus: if can_resize {
                spec.max_vcpus
            } else {
                spec.vcpus
            },
            memory_mib: spec.memory_mib,
            hotplug_mib: if can_resize { spec.hotplug_mib } else { 0 },
            own_memory_mib,
        }
    }

    /// The initial size.
    pub(crate) fn least(&self) -> Size {
        Size {
            vcpus: self.vcpus,
            plugged_mib: 0,
        }
    }

    /// The size for these limits.
    pub(crate) fn size(&self, limits: impl Iterator<Item = Limits>) -> Size {
        let (mut cpus, mut memory) = (0u32, 0u64);
        for limit in limits {
            cpus = cpus.saturating_add(limit.cpus);
            memory = memory.saturating_add(limit.memory);
        }
        let wanted = memory.div_ceil(MIB) + u64::from(self.own_memory_mib);
        let more = wanted.saturating_sub(self.memory_mib.into());
        let plugged = more
            .next_multiple_of(BLOCK_MIB)
            .min(self.hotplug_mib.into());
        Size {
            vcpus: cpus.clamp(self.vcpus, self.max_vcpus),
            // It is bounded by a u32, so it fits.
            plugged_mib: u32::try_from(plugged).unwrap_or(self.hotplug_mib),
        }
    }
}

/// The present size of a pod's VM, and its bounds.
#[derive(Debug)]
pub(crate) struct VmSize {
    bounds: Bounds,
    now: Mutex<Size>,
}

impl VmSize {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            now: Mutex::new(bounds.least()),
        }
    }

    /// Resizes the VM to its containers' limits. The caller holds the operation lock.
    ///
    /// # Errors
    /// The hypervisor's, the agent's; [`crate::Error::Guest`] if the guest does not accept or
    /// release the memory.
    pub(crate) async fn fit(
        &self,
        vm: &GuestVm,
        limits: impl Iterator<Item = Limits>,
    ) -> Result<()> {
        let size = self.bounds.size(limits);
        let before = *lock(&self.now);
        if size == before {
            return Ok(());
        }
        let memory = if size.plugged_mib == before.plugged_mib {
            Ok(())
        } else {
            self.fit_memory(vm, size.plugged_mib).await
        };
        // The number of CPUs changes even if memory does not.
        if size.vcpus != before.vcpus {
            let request = api::OnlineCpuMemRequest {
                cpus: size.vcpus,
                ..Default::default()
            };
            vm.unless_gone(vm.agent.online_cpu_mem(request)).await?;
            lock(&self.now).vcpus = size.vcpus;
        }
        memory
    }

    async fn fit_memory(&self, vm: &GuestVm, wanted: u32) -> Result<()> {
        let plugged = vm.unless_gone(vm.plug_memory(wanted)).await?;
        lock(&self.now).plugged_mib = plugged;
        if plugged == wanted {
            return Ok(());
        }
        Err(GuestError::Memory { plugged, wanted }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            vcpus: 1,
            max_vcpus: 4,
            memory_mib: 256 + 64,
            hotplug_mib: 1024,
            own_memory_mib: 256,
        }
    }

    fn limits(cpus: u32, mib: u64) -> Limits {
        Limits {
            cpus,
            memory: mib * MIB,
        }
    }

    #[test]
    fn size_follows_the_sum_within_the_bounds() {
        let size = |limits: &[Limits]| bounds().size(limits.iter().copied());
        let sized = |vcpus, plugged_mib| Size { vcpus, plugged_mib };

        assert_eq!(size(&[]), bounds().least());
        assert_eq!(size(&[limits(0, 64)]), sized(1, 0));
        assert_eq!(size(&[limits(1, 64), limits(1, 1)]), sized(2, 128));
        assert_eq!(size(&[limits(2, 300), limits(1, 300)]), sized(3, 640));
        assert_eq!(size(&[limits(9, 1 << 40)]), sized(4, 1024));
    }
}
