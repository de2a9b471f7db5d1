//! The VM of a fake guest.

use std::time::Duration;

use async_trait::async_trait;
use hypervisor::{ExitStatus, Extra, Role, Vm, VmExit, VmProcess};

use super::GuestsVm;
use crate::sync::lock;

#[async_trait]
impl Vm for GuestsVm {
    fn processes(&self) -> Vec<VmProcess> {
        Vec::new()
    }

    async fn boot(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn pause(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn resume(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn plug_memory(&self, mib: u32) -> Result<u32, hypervisor::Error> {
        self.0.write_down(format!("plug_memory {mib}"));
        Ok(lock(&self.0.plugs).unwrap_or(mib))
    }

    async fn attach(&self, _: Extra) -> Result<u32, hypervisor::Error> {
        self.0.write_down("attach".into());
        Ok(5)
    }

    async fn detach(&self, slot: u32) -> Result<(), hypervisor::Error> {
        self.0.write_down(format!("detach {slot}"));
        Ok(())
    }

    async fn boot_mark(&self) -> Result<Option<Duration>, hypervisor::Error> {
        Ok(None)
    }

    async fn kill(&self) {
        let guest = &self.0;
        lock(&guest.streams).clear();
        let first = guest.gone.send_if_modified(|gone| {
            let first = gone.is_none();
            gone.get_or_insert(VmExit {
                process: Role::Vmm,
                status: ExitStatus::Signal(libc::SIGKILL),
                reason: String::new(),
            });
            first
        });
        if first {
            guest.write_down("kill the VM".into());
        }
    }

    async fn wait(&self) -> VmExit {
        let mut gone = self.0.gone.subscribe();
        let gone = gone.wait_for(Option::is_some).await.unwrap();
        gone.clone().unwrap()
    }
}
