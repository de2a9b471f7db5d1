//! A VM of one process: `rust-kata-vmm`.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::Error;
use crate::control::{Client, ControlError, DeviceConfig};
use crate::fixed::open_read_only;
use crate::jail;
use crate::machine::{MachineConfig, MemoryConfig};
use crate::process::vmm;
use crate::process::{BoundedLog, LAST_WORDS, Process, Tail};
use crate::spec::ValidSpec;
use crate::vm::{Extra, GUEST_CID, Vm};
use crate::vm_process::{ExitStatus, Role, VmExit, VmProcess};

/// A VM; see the module.
pub(super) struct KvmVm {
    process: Arc<Process>,
    /// Closed on drop, which ends the process.
    control: Arc<Mutex<Client>>,
    exit: watch::Receiver<Option<VmExit>>,
}

impl KvmVm {
    /// Starts the process and makes it build the machine.
    pub async fn create(spec: ValidSpec) -> Result<KvmVm, Error> {
        let (mut control, theirs) = Client::pair().map_err(|source| Error::Io {
            what: "make sockets for",
            path: spec.dir.clone(),
            source,
        })?;
        let (console, console_tail) = BoundedLog::start(spec.file("console.log"))?;
        let files = [
            open(Path::new("/dev/kvm"), true)?,
            open(&spec.kernel, false)?,
            open(&spec.initrd, false)?,
            console,
        ];
        let process = vmm::launch(&spec, theirs).start().await?;
        let built = async {
            control.hello().await?;
            control.build(machine(&spec), devices(&spec), &files).await
        };
        let built = tokio::select! {
            biased;
            built = built => built.map_err(Error::from),
            exit = process.exited() => Err(Error::Exited(exit)),
        };
        if let Err(err) = built {
            // The end of the process explains more than the broken socket, which may be
            // noticed first.
            let limit = match &err {
                Error::Control(ControlError::Closed | ControlError::Socket(_)) => LAST_WORDS,
                _ => Duration::ZERO,
            };
            let exit = timeout(limit, process.exited()).await.ok();
            process.kill();
            process.exited().await;
            return Err(exit.map_or(err, Error::Exited));
        }

        let process = Arc::new(process);
        let control = Arc::new(Mutex::new(control));
        let (sender, exit) = watch::channel(None);
        tokio::spawn(report_exit(
            Arc::clone(&process),
            Arc::clone(&control),
            console_tail,
            sender,
        ));
        Ok(KvmVm {
            process,
            control,
            exit,
        })
    }

    /// Replaces an error by the end of the VM that caused it.
    fn explain(&self, err: impl Into<Error>) -> Error {
        match &*self.exit.borrow() {
            Some(exit) => Error::Exited(exit.clone()),
            None => err.into(),
        }
    }
}

#[async_trait]
impl Vm for KvmVm {
    fn processes(&self) -> Vec<VmProcess> {
        vec![self.process.record()]
    }

    async fn boot(&self) -> Result<(), Error> {
        self.resume().await
    }

    async fn pause(&self) -> Result<(), Error> {
        let paused = self.control.lock().await.pause().await;
        paused.map_err(|err| self.explain(err))
    }

    async fn resume(&self) -> Result<(), Error> {
        let running = self.control.lock().await.run().await;
        running.map_err(|err| self.explain(err))
    }

    async fn plug_memory(&self, mib: u32) -> Result<u32, Error> {
        let plugged = self.control.lock().await.plug_memory(mib).await;
        plugged.map_err(|err| self.explain(err))
    }

    async fn attach(&self, device: Extra) -> Result<u32, Error> {
        let (device, files) = match device {
            Extra::Block {
                file,
                read_only,
                id,
            } => (DeviceConfig::Block { read_only, id }, vec![file]),
            Extra::Net { taps, mac, mtu } => {
                let queues = u16::try_from(taps.len()).unwrap_or(u16::MAX);
                (DeviceConfig::Net { queues, mac, mtu }, taps)
            }
        };
        let attached = self.control.lock().await.attach(device, &files).await;
        attached.map_err(|err| self.explain(err))
    }

    async fn detach(&self, slot: u32) -> Result<(), Error> {
        let detached = self.control.lock().await.detach(slot).await;
        detached.map_err(|err| self.explain(err))
    }

    async fn boot_mark(&self) -> Result<Option<Duration>, Error> {
        let status = self.control.lock().await.status().await;
        let status = status.map_err(|err| self.explain(err))?;
        Ok(status.boot_mark_us.map(Duration::from_micros))
    }

    async fn kill(&self) {
        self.process.kill();
        self.process.exited().await;
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let end = exit.wait_for(Option::is_some).await.ok();
        end.and_then(|exit| exit.clone()).unwrap_or(VmExit {
            process: Role::Vmm,
            status: ExitStatus::Unknown,
            reason: "its watcher is gone".into(),
        })
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.process.kill();
    }
}

/// Publishes the end of the process, with all known causes.
async fn report_exit(
    process: Arc<Process>,
    control: Arc<Mutex<Client>>,
    console: Tail,
    sender: watch::Sender<Option<VmExit>>,
) {
    let mut exit = process.exited().await;
    let mut causes = Vec::new();
    causes.extend(control.lock().await.last_word().map(|end| end.to_string()));
    causes.extend(Some(std::mem::take(&mut exit.reason)).filter(|text| !text.is_empty()));
    causes.extend(console.line_with("Kernel panic").await);
    exit.reason = causes.join("; ");
    sender.send_replace(Some(exit));
}

fn open(path: &Path, write: bool) -> Result<OwnedFd, Error> {
    let file = if write {
        let file: Result<File, _> = OpenOptions::new().read(true).write(true).open(path);
        file.map(OwnedFd::from)
    } else {
        open_read_only(path)
    };
    let failed = |source| Error::Io {
        what: "open",
        path: path.to_owned(),
        source,
    };
    file.map_err(failed)
}

fn machine(spec: &ValidSpec) -> MachineConfig {
    // The crate of the agent's protocol has the words that the agent reads.
    let words = vec![
        "rust_kata_boot_mark=3f0".to_owned(),
        "rust_kata.poweroff=1".into(),
        // By the keyboard controller's port: some kernels hang before they try ACPI.
        "reboot=k".into(),
        // The PCI bus has no devices.
        "pci=off".into(),
        // The agent brings the others online on request.
        format!("maxcpus={}", spec.vcpus),
    ];
    MachineConfig {
        vcpus: spec.vcpus,
        max_vcpus: spec.max_vcpus,
        memory: MemoryConfig {
            mib: spec.memory_mib,
            hotplug_mib: spec.hotplug_mib,
            // No other process maps it. The host backs anonymous memory with huge
            // pages, which saves hundreds of faults at boot.
            shared: false,
            hugepages: spec.hugepages,
        },
        cmdline: spec.kernel_command_line(words),
    }
}

fn devices(spec: &ValidSpec) -> Vec<DeviceConfig> {
    let mut devices = vec![
        DeviceConfig::Vsock {
            cid: GUEST_CID,
            uds: jail::socket(&spec.vsock_uds),
        },
        DeviceConfig::Fs {
            tag: spec.share.tag.clone(),
            dir: jail::SHARE.into(),
            files: spec.share.files,
        },
        DeviceConfig::Rng,
        DeviceConfig::Balloon,
    ];
    if spec.hotplug_mib > 0 {
        devices.push(DeviceConfig::Mem);
    }
    devices
}

#[cfg(test)]
mod tests;
