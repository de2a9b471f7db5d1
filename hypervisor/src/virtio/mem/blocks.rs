//! The state of the region's blocks, and the allowed changes.

use std::io;
use std::ops::Range;

use super::{MemError, MemRegion};

/// §5.15.4: the length of the configuration.
const CONFIG_LEN: usize = 56;

/// The answer to a request (§5.15.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemResponse {
    /// Done.
    Ack,
    /// The size would exceed the requested one.
    Nack,
    /// The device is busy.
    Busy,
    /// The request is not valid.
    Error,
    /// Done; with the state of the blocks.
    State(BlockState),
}

/// The state of a range of blocks (§5.15.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockState {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// The blocks of a region.
pub(super) struct Blocks {
    region: MemRegion,
    requested: u64,
    /// Whether each block is plugged: 512 bytes for each GiB.
    plugged: Vec<bool>,
    count: u64,
}

impl Blocks {
    pub fn new(region: MemRegion) -> Result<Blocks, MemError> {
        let MemRegion {
            addr,
            size,
            block_size,
        } = region;
        let whole = |value: u64| value.is_multiple_of(block_size);
        if !block_size.is_power_of_two()
            || !whole(addr)
            || !whole(size)
            || addr.checked_add(size).is_none()
        {
            return Err(MemError::Region(region));
        }
        Ok(Blocks {
            region,
            requested: 0,
            plugged: vec![false; (size / block_size) as usize],
            count: 0,
        })
    }

    /// Sets the size that the guest should reach.
    pub fn request(&mut self, size: u64) -> Result<(), MemError> {
        let region = self.region;
        if size > region.size || !size.is_multiple_of(region.block_size) {
            return Err(MemError::Size { size, region });
        }
        self.requested = size;
        Ok(())
    }

    pub fn requested_size(&self) -> u64 {
        self.requested
    }

    pub fn plugged_size(&self) -> u64 {
        self.count * self.region.block_size
    }

    /// The configuration (§5.15.4). The whole region is always usable: the guest may choose its
    /// blocks freely, but their number is bounded.
    pub fn config(&self) -> [u8; CONFIG_LEN] {
        let region = &self.region;
        let fields = [
            region.block_size,
            0, // node_id, padding
            region.addr,
            region.size,
            region.size,
            self.plugged_size(),
            self.requested,
        ];
        let mut config = [0; CONFIG_LEN];
        for (place, field) in config.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        config
    }

    /// The blocks of a request, if all are in the region.
    fn range(&self, addr: u64, blocks: u16) -> Option<Range<usize>> {
        let offset = addr.checked_sub(self.region.addr)?;
        if blocks == 0 || !offset.is_multiple_of(self.region.block_size) {
            return None;
        }
        let start = usize::try_from(offset / self.region.block_size).ok()?;
        let end = start.checked_add(blocks.into())?;
        (end <= self.plugged.len()).then_some(start..end)
    }

    /// Plugs blocks (§5.15.6.2).
    pub fn plug(&mut self, addr: u64, blocks: u16) -> MemResponse {
        let Some(range) = self.range(addr, blocks) else {
            return MemResponse::Error;
        };
        let range = &mut self.plugged[range];
        if range.contains(&true) {
            return MemResponse::Error;
        }
        let after = (self.count + u64::from(blocks)) * self.region.block_size;
        if after > self.requested {
            return MemResponse::Nack;
        }
        range.fill(true);
        self.count += u64::from(blocks);
        MemResponse::Ack
    }

    /// Unplugs blocks (§5.15.6.3) if `discard` can return their memory.
    pub fn unplug(
        &mut self,
        addr: u64,
        blocks: u16,
        discard: impl FnOnce(u64, u64) -> io::Result<()>,
    ) -> MemResponse {
        let Some(range) = self.range(addr, blocks) else {
            return MemResponse::Error;
        };
        let range = &mut self.plugged[range];
        if range.contains(&false) {
            return MemResponse::Error;
        }
        if let Err(err) = discard(addr, u64::from(blocks) * self.region.block_size) {
            log::error!("Cannot take memory of the guest back: {err}");
            return MemResponse::Busy;
        }
        range.fill(false);
        self.count -= u64::from(blocks);
        MemResponse::Ack
    }

    /// Unplugs all blocks (§5.15.6.4), and discards the guest's data in unplugged blocks.
    pub fn unplug_all(&mut self, discard: impl FnOnce(u64, u64) -> io::Result<()>) -> MemResponse {
        if let Err(err) = discard(self.region.addr, self.region.size) {
            log::error!("Cannot take the guest's memory back: {err}");
            return MemResponse::Busy;
        }
        self.plugged.fill(false);
        self.count = 0;
        MemResponse::Ack
    }

    /// Reports the state of blocks (§5.15.6.5).
    pub fn state(&self, addr: u64, blocks: u16) -> MemResponse {
        let Some(range) = self.range(addr, blocks) else {
            return MemResponse::Error;
        };
        let range = &self.plugged[range];
        MemResponse::State(match (range.contains(&true), range.contains(&false)) {
            (true, false) => BlockState::Plugged,
            (false, _) => BlockState::Unplugged,
            (true, true) => BlockState::Mixed,
        })
    }
}
