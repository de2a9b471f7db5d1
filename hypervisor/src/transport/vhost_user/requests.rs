//! The front end's requests, one method each.

use std::fs::File;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::{Backend, MAX_QUEUE, Region, lock, other};
use crate::virtio::DeviceKind;

/// The configuration spaces of all devices are smaller.
const MAX_CONFIG: u32 = 256;

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        for vring in &mut self.vrings {
            vring.enabled = false;
            vring.next_avail = 0;
        }
        self.features = 0;
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        self.device
            .set_features(features & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits());
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let features = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::RESET_DEVICE;
        Ok(match self.device.kind() {
            // QEMU has the tag from its command line, and warns if the device offers it, too.
            DeviceKind::Fs => features,
            _ => features | VhostUserProtocolFeatures::CONFIG,
        })
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64)
    }

    fn set_mem_table(&mut self, table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut regions = Vec::new();
        let mut mappings = Vec::new();
        for (region, file) in table.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            mappings.push(
                GuestRegionMmap::new(region.mmap_region(file)?, start)
                    .ok_or(Error::InvalidParam)?,
            );
            regions.push(Region {
                user: region.user_addr,
                size: region.memory_size,
                guest: region.guest_phys_addr,
            });
        }
        let mem = GuestMemoryMmap::from_regions(mappings).map_err(other)?;
        self.mem
            .lock()
            .map_err(|_| Error::BackendInternalError)?
            .replace(mem);
        self.regions = regions;
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE)
            .ok_or(Error::InvalidParam)?;
        self.vring(index as usize)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let rings = (
            self.translate(descriptor)?,
            self.translate(available)?,
            self.translate(used)?,
        );
        self.vring(index as usize)?.rings = Some(rings);
        self.update(index as usize)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.vring(index as usize)?.next_avail = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.vring(index as usize)?;
        self.stop(index as usize);
        let vring = self.vring(index as usize)?;
        vring.kick = None;
        vring.rings = None;
        Ok(VhostUserVringState::new(index, vring.next_avail.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(index.into())?.kick = file.map(Into::into);
        self.update(index.into())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        *lock(&self.vring(index.into())?.call.call) = file;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        *lock(&self.vring(index.into())?.call.error) = file;
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index as usize)?.enabled = enable;
        self.update(index as usize)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        if size > MAX_CONFIG {
            return Err(Error::InvalidParam);
        }
        let mut data = vec![0; size as usize];
        self.device.read_config(offset as usize, &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.device.write_config(offset as usize, data);
        Ok(())
    }

    // The following requests belong to protocol features that are not offered.

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        not_offered()
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _fd: File) -> Result<()> {
        not_offered()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}

fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}
