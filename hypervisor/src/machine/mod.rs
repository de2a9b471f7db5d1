//! A virtual machine on KVM: memory, vCPUs, interrupts, and virtio devices behind virtio-mmio.
//! `rust-kata-vmm` runs it.
//!
//! ```text
//!  main thread ── run, pause, resume ──▶ Vcpus ─ KVM_RUN ⇄ Bus ┬ ports: serial, power-off, reset
//!       ▲                                                      ├ I/O APIC ── routes ──▶ KVM
//!       │                                                      └ slots: Mmio ─▶ Device ─▶ its threads
//!       └────── Ending: the guest has ended ◀──────────────────┘         ▲ ioeventfd     │ irqfd
//!                                                              guest ────┘               └──▶ guest
//! ```
//!
//! The machine gets all its files as descriptors and opens no path. [`layout`] has the guest's
//! memory map.

mod acpi;
mod bus;
mod cpuid;
mod error;
mod exit;
pub(crate) mod io_apic;
mod kernel;
mod kvm;
pub mod layout;
mod memory;
mod registers;
mod serial;
mod slots;
mod vcpu;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;

use crate::event::EventFd;
use crate::virtio::Memory;
use bus::Bus;
use io_apic::IoApic;
use slots::Wires;
use vcpu::Vcpus;

pub use acpi::MAX_VCPUS;
pub use error::MachineError;
pub use exit::{Ending, GuestExit};
pub use memory::MemoryConfig;

/// The configuration of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// The number of vCPUs that the guest brings online at boot.
    pub vcpus: u32,
    /// The number of vCPUs that can be online later, including those.
    pub max_vcpus: u32,
    /// Its memory.
    pub memory: MemoryConfig,
    /// The kernel's command line.
    pub cmdline: String,
}

/// The files of a machine.
#[derive(Debug)]
pub struct MachineFiles {
    /// `/dev/kvm`, open for reading and writing.
    pub kvm: OwnedFd,
    /// The kernel: an uncompressed x86-64 ELF.
    pub kernel: OwnedFd,
    /// The initial RAM disk.
    pub initrd: OwnedFd,
    /// A socket that receives the guest's console output.
    pub console: OwnedFd,
}

/// A virtual machine. Dropping it ends its threads.
pub struct Machine {
    // Fields are dropped in this order: no vCPU may use a device that has been dropped.
    vcpus: Vcpus,
    bus: Arc<Bus>,
    wires: Mutex<Wires>,
    mem: Memory,
    vm: Arc<VmFd>,
    ending: Ending,
    hotplug: Option<(u64, u64)>,
}

impl Machine {
    /// Builds the machine without running it. The time of the boot mark counts from `started`.
    pub fn new(
        config: &MachineConfig,
        files: MachineFiles,
        started: Instant,
    ) -> Result<Machine, MachineError> {
        let kvm = kvm::open(files.kvm)?;
        check_vcpus(config, &kvm)?;
        let guest = config.memory.make()?;
        let memory_bytes = u64::from(config.memory.mib) << 20;
        let entry = kernel::load(
            &guest,
            memory_bytes,
            files.kernel.into(),
            files.initrd.into(),
            &config.cmdline,
        )?;
        acpi::write(&guest, config.max_vcpus)?;
        let boot = |vcpu: &VcpuFd| registers::boot(vcpu, &guest, entry);
        let (vm, vcpus) = assemble(&kvm, &guest, config.max_vcpus, boot)?;

        let ending = Ending::new().map_err(MachineError::Event)?;
        let com1 = EventFd::new().map_err(MachineError::Event)?;
        vm.register_irqfd(com1.for_kvm(), layout::COM1_GSI)
            .map_err(MachineError::kvm("KVM_IRQFD"))?;
        let bus = Arc::new(Bus::new(
            io_apic(&vm),
            com1,
            files.console,
            ending.clone(),
            started,
        ));
        Ok(Machine {
            vcpus: Vcpus::start(vcpus, &bus, &ending)?,
            bus,
            wires: Mutex::default(),
            mem: Memory::new(guest),
            vm,
            ending,
            hotplug: config
                .memory
                .hotplug()
                .map(|range| (range.start, range.len)),
        })
    }

    /// The guest's memory, for its devices.
    pub fn memory(&self) -> Memory {
        self.mem.clone()
    }

    /// Start and length of the memory that can be plugged, if any.
    pub fn hotplug_region(&self) -> Option<(u64, u64)> {
        self.hotplug
    }

    /// Runs the guest, for the first time or after [`pause`](Machine::pause).
    pub fn run(&self) {
        for mut slot in self.bus.slots() {
            if let Some(device) = &mut *slot {
                device.resume();
            }
        }
        self.vcpus.run();
    }

    /// Stops the guest: first its vCPUs, then its devices.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.vcpus.pause()?;
        for mut slot in self.bus.slots() {
            if let Some(device) = &mut *slot {
                device.pause();
            }
        }
        self.bus.flush();
        Ok(())
    }

    /// The reporter of the guest's end.
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    /// The time of the guest's boot mark, since the start of this process.
    pub fn boot_mark(&self) -> Option<Duration> {
        self.bus.boot_mark()
    }

    /// The kinds of the devices, in the order of their slots, and whether each works.
    pub fn devices(&self) -> Vec<(&'static str, bool)> {
        self.bus
            .slots()
            .filter_map(|slot| {
                let device = slot.as_ref()?;
                Some((device.kind().name(), !device.needs_reset()))
            })
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Stop the guest first, then its devices, then write out the buffered console output.
        if let Err(err) = self.pause() {
            log::error!("{err}");
        }
    }
}

fn check_vcpus(config: &MachineConfig, kvm: &Kvm) -> Result<(), MachineError> {
    let limit = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
    let limit = limit.min(acpi::MAX_VCPUS);
    let (given, max) = (config.vcpus, config.max_vcpus);
    if given >= 1 && given <= max && max <= limit {
        Ok(())
    } else {
        Err(MachineError::Vcpus { given, max, limit })
    }
}

/// A VM with memory and vCPUs; `boot` sets up the first vCPU.
fn assemble(
    kvm: &Kvm,
    guest: &GuestMemoryMmap,
    count: u32,
    boot: impl Fn(&VcpuFd) -> Result<(), MachineError>,
) -> Result<(Arc<VmFd>, Vec<VcpuFd>), MachineError> {
    let vm = kvm::create_vm(kvm)?;
    memory::register(&vm, guest)?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let mut vcpus = Vec::new();
    for id in 0..count {
        let vcpu = vm
            .create_vcpu(id.into())
            .map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        let cpuid = cpuid::for_vcpu(&supported, id, count)?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(MachineError::kvm("KVM_SET_CPUID2"))?;
        registers::common(&vcpu)?;
        if id == 0 {
            boot(&vcpu)?;
        }
        vcpus.push(vcpu);
    }
    Ok((Arc::new(vm), vcpus))
}

/// An I/O APIC for the lines of `vm`.
fn io_apic(vm: &Arc<VmFd>) -> IoApic {
    let vm = Arc::clone(vm);
    IoApic::new(Box::new(move |messages| kvm::route(&vm, messages)))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
