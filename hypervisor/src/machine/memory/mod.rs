//! The guest's memory: anonymous memory or files, mapped into this process and registered with
//! KVM.

use std::fs::File;
use std::os::fd::OwnedFd;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, mmap::MmapRegionError,
};

use super::MachineError;
use super::layout;

/// The size and kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Memory at boot.
    pub mib: u32,
    /// Memory that can be plugged later, a multiple of 128 MiB; 0 for none.
    pub hotplug_mib: u32,
    /// Whether other processes may map it (a memfd). Otherwise it is anonymous; the host then
    /// uses transparent huge pages automatically.
    pub shared: bool,
    /// Whether it uses the host's reserved 2 MiB pages (hugetlbfs), which must exist.
    pub hugepages: bool,
}

/// A page of hugetlbfs.
const HUGE_PAGE: u64 = 2 << 20;

/// The most attempts to find an aligned place; each excludes a gap between other mappings.
const MAX_TRIES: usize = 64;

/// Part of the guest's physical address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The address ranges of `bytes` bytes of memory: below the gap first, the rest above it.
pub(super) fn ranges(bytes: u64) -> Vec<Range> {
    let low = bytes.min(layout::GAP_START);
    let mut ranges = vec![Range { start: 0, len: low }];
    if bytes > low {
        ranges.push(Range {
            start: layout::GAP_END,
            len: bytes - low,
        });
    }
    ranges
}

impl MemoryConfig {
    fn bytes(&self) -> u64 {
        u64::from(self.mib) << 20
    }

    /// The address range of plugged memory, if any.
    pub(super) fn hotplug(&self) -> Option<Range> {
        let len = u64::from(self.hotplug_mib) << 20;
        let end = ranges(self.bytes()).last().map_or(0, |r| r.start + r.len);
        (len > 0).then_some(Range {
            start: end
                .max(layout::GAP_END)
                .next_multiple_of(layout::HOTPLUG_ALIGN),
            len,
        })
    }

    /// Makes all memory, including unplugged memory, which has no cost.
    pub(super) fn make(&self) -> Result<GuestMemoryMmap, MachineError> {
        let mut wanted = ranges(self.bytes());
        wanted.extend(self.hotplug());
        if self.hugepages && wanted.iter().any(|range| range.len % HUGE_PAGE != 0) {
            return Err(MachineError::MemorySize {
                mib: self.mib,
                why: "it is not a multiple of 2 MiB, the size of huge pages",
            });
        }
        let regions = wanted.into_iter().map(|range| self.region(range));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        GuestMemoryMmap::from_regions(regions).map_err(|err| MachineError::Memory {
            what: "lay out",
            reason: err.to_string(),
        })
    }

    fn region(&self, range: Range) -> Result<GuestRegionMmap, MachineError> {
        let failed = |what| move |reason: String| MachineError::Memory { what, reason };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let len = range.len as usize;
        let (file, flags) = if self.shared || self.hugepages {
            let file = self
                .file(range.len)
                .map_err(|err| failed("make a memfd for")(err.to_string()))?;
            (Some(FileOffset::new(file, 0)), libc::MAP_SHARED)
        } else {
            (None, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
        };
        // Huge pages are reserved: a lack of them must be an error now, not a SIGBUS later.
        let reserve = if self.hugepages {
            0
        } else {
            libc::MAP_NORESERVE
        };
        let map = || MmapRegion::build(file.clone(), len, protection, flags | reserve);
        let region =
            aligned(range.start, map).map_err(|err| failed("map")(self.cure(err.to_string())))?;
        if !self.hugepages {
            // SAFETY: advice on a mapping made above.
            unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
            // Without this, a core dump of this process would contain the guest's memory.
            // SAFETY: as above.
            unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_DONTDUMP) };
        }
        name(&region);
        GuestRegionMmap::new(region, GuestAddress(range.start))
            .ok_or_else(|| failed("lay out")("the address overflows".into()))
    }

    fn cure(&self, reason: String) -> String {
        if self.hugepages {
            format!("{reason}: reserve more huge pages (vm.nr_hugepages), or do without")
        } else {
            reason
        }
    }

    fn file(&self, len: u64) -> nix::Result<File> {
        let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        if self.hugepages {
            flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        }
        let fd: OwnedFd = memfd_create(c"guest", flags)?;
        nix::unistd::ftruncate(&fd, len as i64)?;
        // Another process that maps the file cannot shrink it.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(File::from(fd))
    }
}

/// Maps memory at a place where KVM can use huge pages. KVM does so only in slots whose host
/// and guest addresses agree within 2 MiB (`kvm_alloc_memslot_metadata`), but kernels before
/// 6.7 place anonymous memory anywhere. They place from high addresses to low ones. So a
/// misaligned mapping is kept for a while, with a filler below it: the kernel then places the
/// next mapping lower, at an aligned address.
fn aligned(
    start: u64,
    map: impl Fn() -> Result<MmapRegion, MmapRegionError>,
) -> Result<MmapRegion, MmapRegionError> {
    let off = |address: usize| (address as u64).wrapping_sub(start) % HUGE_PAGE;
    let mut region = map()?;
    let mut above = Vec::new();
    while off(region.as_ptr() as usize) != 0 && above.len() < MAX_TRIES {
        let (end, len) = (region.as_ptr() as usize, region.size());
        above.push((region, Filler::below(end, len, off(end - len) as usize)));
        // With a limited address space, an unaligned mapping is better than an error.
        match map() {
            Ok(next) => region = next,
            Err(err) => return above.pop().map(|(last, _)| last).ok_or(err),
        }
    }
    Ok(region)
}

/// Address space that is kept free of other mappings.
struct Filler {
    at: usize,
    len: usize,
}

impl Filler {
    /// Maps the `gap` bytes below `end`, if the kernel would place the next `len` bytes there.
    fn below(end: usize, len: usize, gap: usize) -> Filler {
        let none = Filler { at: end, len: 0 };
        let all = len + gap;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return none;
        }
        let mut filler = Filler {
            at: at as usize,
            len: all,
        };
        if filler.at + all != end {
            return none;
        }
        filler.unmap_front(len);
        filler
    }

    /// Unmaps the first `len` bytes.
    fn unmap_front(&mut self, len: usize) {
        // SAFETY: part of a mapping made here, to which no reference exists.
        unsafe { libc::munmap(self.at as *mut libc::c_void, len) };
        self.at += len;
        self.len -= len;
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if self.len > 0 {
            self.unmap_front(self.len);
        }
    }
}

/// Names guest memory in `/proc/PID/smaps`, to distinguish it from the VMM's own. Kernels
/// without `CONFIG_ANON_VMA_NAME` do not support this.
fn name(region: &MmapRegion) {
    let text = c"guest";
    // SAFETY: the range was mapped here, and the kernel copies the text.
    unsafe {
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            region.as_ptr(),
            region.size(),
            text.as_ptr(),
        )
    };
}

/// Registers all of `mem` as memory of the VM `vm`.
pub(super) fn register(vm: &VmFd, mem: &GuestMemoryMmap) -> Result<(), MachineError> {
    for (slot, region) in mem.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped with this size, overlaps no other one, and stays mapped
        // for the lifetime of the VM.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
