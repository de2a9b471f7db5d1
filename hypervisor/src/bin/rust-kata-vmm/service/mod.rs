//! The service behind the control channel: a machine on KVM, or devices for QEMU.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::control::{Attached, DeviceStatus, Service, VmmStatus};
use hypervisor::jail::{self, ThreadKind};
use hypervisor::machine::{Ending, Machine, MachineConfig, MachineFiles};
use hypervisor::transport::vhost_user::VhostUser;
use hypervisor::virtio::mem::MemControl;

use super::device;

/// The time that the guest may take to plug or unplug memory.
const PLUG_LIMIT: Duration = Duration::from_secs(5);
/// An answer of this service; an error is a text for the owner.
type Answer<T> = Result<T, String>;

/// The service. Missing parts are `None` or empty.
pub struct VmmService {
    started: Instant,
    served: Vec<(&'static str, VhostUser)>,
    machine: Option<Arc<Machine>>,
    plugging: Option<MemControl>,
    /// The slots of devices that were attached after the machine was built.
    attached: BTreeSet<usize>,
}

impl VmmService {
    /// An empty service. `started` is the start of this process.
    pub fn new(started: Instant) -> VmmService {
        VmmService {
            started,
            served: Vec::new(),
            machine: None,
            plugging: None,
            attached: BTreeSet::new(),
        }
    }

    fn machine(&self) -> Answer<&Arc<Machine>> {
        self.machine.as_ref().ok_or("no machine is running".into())
    }
}

impl Service for VmmService {
    fn serve(&mut self, devices: Vec<Attached>) -> Answer<()> {
        for (config, mut files) in devices {
            let socket = UnixStream::from(files.remove(0));
            let (device, _) = device::make(config, files, None)?;
            let name = device.kind().name();
            let server = VhostUser::serve(device, socket)
                .map_err(|err| format!("cannot serve {name}: {err}"))?;
            self.served.push((name, server));
        }
        Ok(())
    }

    fn build(
        &mut self,
        config: MachineConfig,
        files: MachineFiles,
        devices: Vec<Attached>,
    ) -> Answer<Ending> {
        let started = self.started;
        let (machine, plugging) = in_machine(move || build(&config, files, devices, started))?;
        let ending = machine.ending();
        (self.machine, self.plugging) = (Some(Arc::new(machine)), plugging);
        Ok(ending)
    }

    fn run(&mut self) -> Answer<()> {
        self.machine()?.run();
        Ok(())
    }

    fn pause(&mut self) -> Answer<()> {
        self.machine()?.pause().map_err(|err| err.to_string())
    }

    fn plug_memory(&mut self, mib: u32) -> Answer<u32> {
        let control = self.plugging.as_ref();
        let control = control.ok_or("this machine has no memory to plug")?;
        control
            .resize(u64::from(mib) << 20)
            .map_err(|err| err.to_string())?;
        let plugged = control.wait(PLUG_LIMIT);
        Ok(u32::try_from(plugged >> 20).unwrap_or(u32::MAX))
    }

    fn attach(&mut self, (config, files): Attached) -> Answer<u32> {
        let machine = Arc::clone(self.machine()?);
        let slot = in_machine(move || {
            let (device, _) = device::make(config, files, None)?;
            machine.attach(device).map_err(text)
        })?;
        self.attached.insert(slot);
        u32::try_from(slot).map_err(text)
    }

    fn detach(&mut self, slot: u32) -> Answer<()> {
        let machine = Arc::clone(self.machine()?);
        let slot = slot as usize;
        if !self.attached.remove(&slot) {
            return Err(format!("no device is attached to slot {slot}"));
        }
        in_machine(move || machine.detach(slot).map_err(text))
    }

    fn status(&self) -> VmmStatus {
        let device = |(kind, connected): (&str, bool)| DeviceStatus {
            kind: kind.into(),
            connected,
        };
        let served = self.served.iter();
        let served = served.map(|(kind, server)| (*kind, server.is_connected()));
        let attached = self.machine.iter().flat_map(|machine| machine.devices());
        let mark = self
            .machine
            .as_ref()
            .and_then(|machine| machine.boot_mark());
        VmmStatus {
            devices: served.chain(attached).map(device).collect(),
            boot_mark_us: mark.map(|time| time.as_micros() as u64),
        }
    }

    fn stop(&mut self) {
        self.machine = None;
        self.served.clear();
    }
}

/// Runs `work` in a thread that may change a machine.
fn in_machine<T: Send + 'static>(work: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    jail::run(ThreadKind::Machine, "machine", move || Ok(work())).map_err(text)?
}

fn text(err: impl std::fmt::Display) -> String {
    err.to_string()
}

/// Builds a machine with its devices.
fn build(
    config: &MachineConfig,
    files: MachineFiles,
    devices: Vec<Attached>,
    started: Instant,
) -> Answer<(Machine, Option<MemControl>)> {
    let machine = Machine::new(config, files, started).map_err(text)?;
    let mut plugging = None;
    for (config, files) in devices {
        let (device, control) = device::make(config, files, machine.hotplug_region())?;
        machine.attach(device).map_err(text)?;
        plugging = control.or(plugging);
    }
    Ok((machine, plugging))
}

#[cfg(test)]
mod tests;
