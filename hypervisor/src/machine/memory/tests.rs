//! Where memory lies and how it is mapped.

use super::*;
use test_support::{Reason, require};
use vm_memory::Bytes;

fn config(mib: u32, hotplug_mib: u32) -> MemoryConfig {
    MemoryConfig {
        mib,
        hotplug_mib,
        shared: true,
        hugepages: false,
    }
}

/// A length for which the kernel does not choose an aligned address.
#[test]
fn host_and_guest_addresses_agree_within_huge_pages() {
    let len = 1 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

    let regions: Vec<_> = (0..20)
        .map(|page| {
            let start = page * 0x7000;
            let map = || MmapRegion::<()>::build(None, len, libc::PROT_READ, flags);
            (start, aligned(start, map).unwrap())
        })
        .collect();

    for (start, region) in regions {
        assert_eq!(region.as_ptr() as u64 % HUGE_PAGE, start % HUGE_PAGE);
    }
}

#[test]
fn memory_leaves_the_gap_free() {
    let small = ranges(128 << 20);
    let large = ranges(6 << 30);

    assert_eq!(
        small,
        [Range {
            start: 0,
            len: 128 << 20
        }]
    );
    assert_eq!(
        large,
        [
            Range {
                start: 0,
                len: 3 << 30
            },
            Range {
                start: 4 << 30,
                len: 3 << 30
            }
        ]
    );
}

#[test]
fn plugged_memory_lies_behind_all_other() {
    let start = |mib| config(mib, 256).hotplug().unwrap().start;

    assert_eq!(start(128), 4 << 30);
    assert_eq!(start(3 << 10), 4 << 30);
    assert_eq!(start((3 << 10) + 100), (4 << 30) + (128 << 20));
    assert_eq!(config(128, 0).hotplug(), None);
}

#[test]
fn memory_can_be_written_on_both_sides_of_the_gap() {
    for shared in [true, false] {
        let mem = MemoryConfig {
            shared,
            ..config(4 << 10, 128)
        }
        .make()
        .unwrap();

        for address in [0, (3 << 30) - 8, 4 << 30, (5 << 30) + (128 << 20) - 8] {
            mem.write_obj(7u64, GuestAddress(address)).unwrap();
            assert_eq!(mem.read_obj::<u64>(GuestAddress(address)).unwrap(), 7);
        }
        assert!(mem.write_obj(7u64, GuestAddress(3 << 30)).is_err());
    }
}

#[test]
fn lack_of_huge_pages_is_an_error_with_a_cure() {
    let config = MemoryConfig {
        hugepages: true,
        ..config(1 << 20, 0)
    };

    let refused = config.make().unwrap_err().to_string();

    assert!(refused.contains("vm.nr_hugepages"), "{refused}");
}

#[test]
fn odd_size_on_huge_pages_is_refused_by_name() {
    let mut config = config(129, 0);
    config.hugepages = true;

    let refused = config.make().unwrap_err().to_string();

    assert!(refused.contains("129 MiB"), "{refused}");
}

/// The lines of `/proc/self/smaps` about a region.
fn smaps(region: &MmapRegion) -> Vec<String> {
    let start = format!("{:x}-", region.as_ptr() as usize);
    let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = all.lines().skip_while(|line| !line.starts_with(&start));
    let header = lines.next().unwrap().to_owned();
    let mut found = vec![header];
    for line in lines {
        found.push(line.to_owned());
        if line.starts_with("VmFlags:") {
            return found;
        }
    }
    panic!("no flags: {found:?}");
}

#[test]
fn memory_is_kept_out_of_core_files_and_takes_pages_when_it_is_used() {
    for shared in [true, false] {
        let mem = MemoryConfig {
            shared,
            ..config(64, 0)
        };
        let mem = mem.make().unwrap();
        let region = mem.iter().next().unwrap();

        assert_eq!(region.file_offset().is_some(), shared);
        let kind = region.flags() & (libc::MAP_SHARED | libc::MAP_PRIVATE);
        assert_eq!(kind == libc::MAP_SHARED, shared);
        let lines = smaps(region);
        let flags: Vec<_> = lines.last().unwrap().split(' ').collect();
        // proc(5): do not dump, huge pages advised, no reservation; read, write, share.
        for (flag, wanted) in [
            ("dd", true),
            ("hg", true),
            ("nr", true),
            ("rd", true),
            ("wr", true),
            ("ex", false),
            ("sh", shared),
        ] {
            assert_eq!(flags.contains(&flag), wanted, "{flag}: {flags:?}");
        }
    }
}

#[test]
fn anonymous_memory_has_a_name_where_the_kernel_has_names() {
    let named = |region: &MmapRegion| smaps(region)[0].ends_with("[anon:guest]");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mine = MmapRegion::<()>::build(None, 4096, libc::PROT_READ, flags).unwrap();
    // SAFETY: names a mapping made above; the kernel copies the text.
    let can = unsafe {
        let (start, text) = (mine.as_ptr(), c"guest".as_ptr());
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            start,
            4096,
            text,
        ) == 0
    };
    let mem = MemoryConfig {
        shared: false,
        ..config(64, 0)
    };
    let mem = mem.make().unwrap();
    assert_eq!(named(mem.iter().next().unwrap()), can);
}

#[test]
fn a_file_of_memory_keeps_its_size_and_stays_in_this_process() {
    let file = config(64, 0).file(1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    // fcntl(2): F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW; FD_CLOEXEC.
    assert_eq!(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap(), 0b111);
    assert_eq!(fcntl(&file, FcntlArg::F_GETFD).unwrap(), 1);
}

#[test]
fn a_file_on_huge_pages_has_pages_of_two_mebibytes() {
    let huge = MemoryConfig {
        hugepages: true,
        ..config(64, 0)
    };
    // Needs no reserved page before it is mapped.
    let file = huge.file(4 << 20).map_err(|errno| {
        let absent = [nix::Error::EINVAL, nix::Error::ENODEV, nix::Error::ENOSYS];
        assert!(absent.contains(&errno), "{errno}");
        Reason::SystemCall("huge pages of 2 MiB")
    });
    let file = require!(file);
    assert_eq!(rustix::fs::fstatfs(&file).unwrap().f_bsize, 2 << 20);
}

/// A mapping at an address that is never aligned; the kernel chooses no other.
fn misaligned() -> MmapRegion {
    static PAGES: [u8; 3 * 4096] = [0; 3 * 4096];
    let start = (&raw const PAGES).addr().next_multiple_of(4096);
    let start = match start as u64 % HUGE_PAGE {
        0 => start + 4096,
        _ => start,
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the page is in memory that lives as long as the program, and is never accessed.
    unsafe { MmapRegion::build_raw(start as *mut u8, 4096, libc::PROT_READ, flags) }.unwrap()
}

#[test]
fn an_aligned_place_is_not_searched_for_without_end() {
    let tries = std::cell::Cell::new(0);
    let map = || {
        tries.set(tries.get() + 1);
        Ok(misaligned())
    };
    aligned(0, map).unwrap();
    assert_eq!(tries.get(), 1 + MAX_TRIES);
    // The first place is good enough if it is aligned.
    let start = misaligned().as_ptr() as u64 % HUGE_PAGE;
    tries.set(0);
    aligned(start, map).unwrap();
    assert_eq!(tries.get(), 1);
}

#[test]
fn a_misaligned_place_is_better_than_none() {
    let tries = std::cell::Cell::new(0);
    let full = || MmapRegionError::Mmap(std::io::ErrorKind::OutOfMemory.into());
    let map_one = || {
        tries.set(tries.get() + 1);
        match tries.get() {
            1 => Ok(misaligned()),
            _ => Err(full()),
        }
    };
    aligned(0, map_one).unwrap();
    assert_eq!(tries.get(), 2);
    assert!(aligned(0, || Err(full())).is_err());
}

#[test]
fn a_filler_gives_its_address_space_back() {
    const PAGE: usize = 4096;
    // Far from where the kernel places mappings of other threads.
    let hint = 0x1234_5000_0000usize as *mut libc::c_void;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping, which replaces no other.
    let at = unsafe { libc::mmap(hint, 4 * PAGE, libc::PROT_NONE, flags, -1, 0) };
    assert_eq!(at, hint);
    let mapped = || {
        [0, 1, 2, 3].map(|page| {
            let mut there = 0;
            // SAFETY: mincore(2) does not access the page, and writes one byte.
            unsafe { libc::mincore(hint.byte_add(page * PAGE), PAGE, &raw mut there) == 0 }
        })
    };
    let mut filler = Filler {
        at: at as usize,
        len: 4 * PAGE,
    };
    assert_eq!(mapped(), [true; 4]);
    filler.unmap_front(PAGE);
    assert_eq!(mapped(), [false, true, true, true]);
    assert_eq!((filler.at - hint as usize, filler.len), (PAGE, 3 * PAGE));
    drop(filler);
    assert_eq!(mapped(), [false; 4]);
}
