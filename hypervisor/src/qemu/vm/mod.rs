//! A VM of two processes: `rust-kata-vmm` for the devices, QEMU for all else.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Accelerator;
use super::command_line::{self, Sockets};
use super::layout::{self, FIRMWARE};
use super::qmp::{Connecting, Qmp};
use crate::Error;
use crate::control::{Client, DeviceConfig};
use crate::jail;
use crate::process::vmm;
use crate::process::{BoundedLog, LAST_WORDS, Launch, Namespaces, Process, Tail};
use crate::spec::{HypervisorKind, ValidSpec};
use crate::sync::lock;
use crate::vm::{Extra, GUEST_CID, Vm};
use crate::vm_process::{ExitStatus, Role, VmExit, VmProcess};

/// A VM; see the module.
pub(super) struct QemuVm {
    processes: Arc<Processes>,
    qmp: Qmp,
    /// Closed on drop, which ends `rust-kata-vmm`.
    _control: Client,
    exit: watch::Receiver<Option<VmExit>>,
}

struct Processes {
    vmm: Process,
    qemu: Process,
}

impl QemuVm {
    /// Starts both processes in parallel and connects them.
    pub async fn create(
        spec: ValidSpec,
        accelerator: Accelerator,
        tsc_khz: Option<u64>,
    ) -> Result<QemuVm, Error> {
        layout::check(&spec)?;
        let socket = |source| Error::Io {
            what: "make sockets for",
            path: spec.dir.clone(),
            source,
        };
        let (vsock, qemu_vsock) = pair().map_err(socket)?;
        let (fs, qemu_fs) = pair().map_err(socket)?;
        let (qmp, qemu_qmp) = Connecting::pair().map_err(socket)?;
        let (mut control, vmm_control) = Client::pair().map_err(socket)?;
        let (console, console_tail) = BoundedLog::start(spec.file("console.log"))?;

        let sockets = Sockets {
            qmp: qemu_qmp.as_raw_fd(),
            console: console.as_raw_fd(),
            vsock: qemu_vsock.as_raw_fd(),
            fs: qemu_fs.as_raw_fd(),
        };
        let vmm = vmm::launch(&spec, vmm_control);
        let qemu = Launch {
            role: Role::Qemu,
            program: spec.qemu_binary.clone(),
            args: command_line::build(&spec, accelerator, tsc_khz, sockets),
            log: spec.file("qemu.log"),
            namespaces: Namespaces::Host {
                netns: spec.netns.clone(),
            },
            cgroup: spec.cgroup.clone(),
            fds: vec![qemu_qmp, console, qemu_vsock, qemu_fs],
        };
        let (vmm, qemu) = match tokio::join!(vmm.start(), qemu.start()) {
            (Ok(vmm), Ok(qemu)) => (vmm, qemu),
            (Ok(other), Err(err)) | (Err(err), Ok(other)) => {
                other.kill();
                other.exited().await;
                return Err(err);
            }
            (Err(err), Err(_)) => return Err(err),
        };
        let processes = Arc::new(Processes { vmm, qemu });

        let devices = vec![
            (
                DeviceConfig::Vsock {
                    cid: GUEST_CID,
                    uds: jail::socket(&spec.vsock_uds),
                },
                vec![vsock],
            ),
            (
                DeviceConfig::Fs {
                    tag: spec.share.tag.clone(),
                    dir: jail::SHARE.into(),
                    files: spec.share.files,
                },
                vec![fs],
            ),
        ];
        let serve = async {
            control.hello().await?;
            control.serve(devices).await?;
            Ok(())
        };
        let connect = async { tokio::try_join!(serve, qmp.ready()) };
        let connected = tokio::select! {
            biased;
            connected = connect => connected,
            exit = processes.first_exit() => Err(ended(exit)),
        };
        let qmp = match connected {
            Ok(((), qmp)) => qmp,
            Err(err) => {
                // The end of a process explains more than the broken socket, which may be
                // noticed first.
                let exit = timeout(LAST_WORDS, processes.first_exit()).await.ok();
                processes.kill().await;
                return Err(exit.map_or(err, ended));
            }
        };

        let (sender, exit) = watch::channel(None);
        tokio::spawn(report_exit(
            Arc::clone(&processes),
            qmp.shutdown(),
            console_tail,
            sender,
        ));
        Ok(QemuVm {
            processes,
            qmp,
            _control: control,
            exit,
        })
    }

    /// Replaces an error by the end of the VM that caused it.
    fn explain(&self, err: Error) -> Error {
        match &*self.exit.borrow() {
            Some(exit) => Error::Exited(exit.clone()),
            None => err,
        }
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn processes(&self) -> Vec<VmProcess> {
        vec![self.processes.vmm.record(), self.processes.qemu.record()]
    }

    async fn boot(&self) -> Result<(), Error> {
        self.qmp.cont().await.map_err(|err| self.explain(err))
    }

    async fn pause(&self) -> Result<(), Error> {
        self.qmp.stop().await.map_err(|err| self.explain(err))
    }

    async fn resume(&self) -> Result<(), Error> {
        self.qmp.cont().await.map_err(|err| self.explain(err))
    }

    async fn plug_memory(&self, _mib: u32) -> Result<u32, Error> {
        Err(Error::Unsupported {
            kind: HypervisorKind::Qemu,
            reason: "its VMs keep the memory that they start with".into(),
        })
    }

    async fn attach(&self, _device: Extra) -> Result<u32, Error> {
        Err(fixed())
    }

    async fn detach(&self, _slot: u32) -> Result<(), Error> {
        Err(fixed())
    }

    async fn boot_mark(&self) -> Result<Option<Duration>, Error> {
        Ok(None)
    }

    async fn kill(&self) {
        self.processes.kill().await;
    }

    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let end = exit.wait_for(Option::is_some).await.ok();
        end.and_then(|exit| exit.clone()).unwrap_or(VmExit {
            process: Role::Qemu,
            status: ExitStatus::Unknown,
            reason: "its watcher is gone".into(),
        })
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.processes.vmm.kill();
        self.processes.qemu.kill();
    }
}

impl Processes {
    async fn kill(&self) {
        self.vmm.kill();
        self.qemu.kill();
        self.vmm.exited().await;
        self.qemu.exited().await;
    }

    async fn first_exit(&self) -> VmExit {
        tokio::select! {
            exit = self.vmm.exited() => exit,
            exit = self.qemu.exited() => exit,
        }
    }
}

/// Publishes the first end of a process, with all known causes.
async fn report_exit(
    processes: Arc<Processes>,
    shutdown: Arc<Mutex<Option<String>>>,
    console: Tail,
    sender: watch::Sender<Option<VmExit>>,
) {
    let mut exit = processes.first_exit().await;
    if exit.process == Role::Qemu {
        let mut causes = Vec::new();
        let announced = lock(&shutdown).take();
        causes.extend(announced);
        causes.extend(Some(std::mem::take(&mut exit.reason)).filter(|text| !text.is_empty()));
        causes.extend(console.line_with("Kernel panic").await);
        exit.reason = causes.join("; ");
    }
    sender.send_replace(Some(exit));
}

/// The error for a process that ended before the machine was complete.
fn ended(exit: VmExit) -> Error {
    // hw/i386/x86.c `x86_bios_rom_init`: "qemu: could not load PC BIOS 'qboot.rom'"
    if exit.process == Role::Qemu && exit.reason.contains(FIRMWARE) {
        return Error::Firmware {
            name: FIRMWARE,
            reason: exit.reason,
        };
    }
    Error::Exited(exit)
}

fn fixed() -> Error {
    Error::Unsupported {
        kind: HypervisorKind::Qemu,
        reason: "its VMs keep the devices that they start with".into(),
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.into(), other.into()))
}

#[cfg(test)]
mod tests;
