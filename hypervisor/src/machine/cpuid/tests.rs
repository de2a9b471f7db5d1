//! What two hosts report, as Linux and the vendors' manuals have it, and what their guests see.

use super::*;

/// One leaf: function, index, then EAX, EBX, ECX, EDX.
type Leaf = (u32, u32, [u32; 4]);

/// A host of Intel: an Ice Lake server, as cpuid(1) lists it, with what KVM masks masked.
const INTEL: [Leaf; 11] = [
    (0x0, 0, [0x1b, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (
        0x1,
        0,
        [
            0x0006_06a6,
            0x0440_0800,
            0xfffa_3203 | 1 << 3 | 1 << 5,
            0x1f8b_fbff,
        ],
    ),
    // The caches: L1 data, L1 instructions, L2, L3, none.
    (0x4, 0, [0x7c00_4121, 0x02c0_003f, 0x3f, 0]),
    (0x4, 1, [0x7c00_4122, 0x01c0_003f, 0x3f, 0]),
    (0x4, 2, [0x7c00_4143, 0x04c0_003f, 0x3ff, 0]),
    (0x4, 3, [0x7c0f_c163, 0x0380_003f, 0xffff, 4]),
    (0x4, 4, [0, 0, 0, 0]),
    (0xa, 0, [0x0830_0805, 0, 0xf, 0x8604]),
    (0xb, 0, [1, 2, 0x100, 5]),
    (0x1f, 0, [1, 2, 0x100, 5]),
    (0x8000_0008, 0, [0x3039, 0x0100_d000, 0, 0]),
];

/// A host of AMD: a Milan server, in the same way.
const AMD: [Leaf; 10] = [
    (0x0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
    (0x1, 0, [0x00a0_0f11, 0x2180_0800, 0x76f8_320b, 0x178b_fbff]),
    (0xb, 0, [1, 2, 0x100, 0x21]),
    (
        0x8000_0001,
        0,
        [0x00a0_0f11, 0x4000_0000, 0x75c2_37ff, 0x2fd3_fbff],
    ),
    (
        0x8000_0008,
        0,
        [0x3030, 0x111e_f657, 0x0000_703f, 0x0001_0007],
    ),
    // The caches: L1 data, L1 instructions, L2, L3.
    (0x8000_001d, 0, [0x0000_4121, 0x01c0_003f, 0x3f, 0]),
    (0x8000_001d, 2, [0x0000_4143, 0x01c0_003f, 0x3ff, 2]),
    (0x8000_001d, 3, [0x0003_c163, 0x03c0_003f, 0x7fff, 1]),
    (0x8000_001d, 4, [0, 0, 0, 0]),
    (0x8000_001e, 0, [0x21, 0x0110, 0x0301, 0]),
];

fn supported(leaves: &[Leaf]) -> CpuId {
    let entry = |(function, index, [eax, ebx, ecx, edx]): &Leaf| kvm_cpuid_entry2 {
        function: *function,
        index: *index,
        eax: *eax,
        ebx: *ebx,
        ecx: *ecx,
        edx: *edx,
        ..Default::default()
    };
    CpuId::from_entries(&leaves.iter().map(entry).collect::<Vec<_>>()).unwrap()
}

fn seen(leaves: &[Leaf], id: u32, count: u32) -> Vec<Leaf> {
    let cpuid = for_vcpu(&supported(leaves), id, count).unwrap();
    let leaf = |e: &kvm_cpuid_entry2| (e.function, e.index, [e.eax, e.ebx, e.ecx, e.edx]);
    cpuid.as_slice().iter().map(leaf).collect()
}

#[test]
fn the_third_of_three_vcpus_on_intel() {
    let expected: [Leaf; 12] = [
        (0x0, 0, [0x1b, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        // [31:24] APIC id 2, [23:16] 4 ids; no MONITOR, no VMX; TSC_DEADLINE, HYPERVISOR; HTT.
        (
            0x1,
            0,
            [0x0006_06a6, 0x0204_0800, 0xfffa_3203 & !0x28, 0x1f8b_fbff],
        ),
        // [31:26] 2: three cores; [25:14] one or three of them share the cache.
        (0x4, 0, [0x0800_0121, 0x02c0_003f, 0x3f, 0]),
        (0x4, 1, [0x0800_0122, 0x01c0_003f, 0x3f, 0]),
        (0x4, 2, [0x0800_0143, 0x04c0_003f, 0x3ff, 0]),
        (0x4, 3, [0x0800_8163, 0x0380_003f, 0xffff, 4]),
        (0x4, 4, [0, 0, 0, 0]),
        (0xa, 0, [0, 0, 0, 0]),
        // [15:12] 2 bits of the APIC id, [7:0] three cores.
        (0x8000_0008, 0, [0x3039, 0x0100_d000, 0x2002, 0]),
        (0xb, 0, [0, 1, 0x100, 2]),
        (0xb, 1, [2, 3, 0x201, 2]),
        (0xb, 2, [0, 0, 2, 2]),
    ];
    assert_eq!(seen(&INTEL, 2, 3), expected);
}

#[test]
fn the_only_vcpu_on_intel() {
    let seen = seen(&INTEL, 0, 1);
    let find = |function, index| {
        seen.iter()
            .find(|l| (l.0, l.1) == (function, index))
            .unwrap()
            .2
    };

    assert_eq!(find(0x1, 0)[1], 0x0001_0800);
    assert_eq!(find(0x1, 0)[3], 0x1f8b_fbff & !(1 << 28), "no HTT");
    for (index, eax) in [(0, 0x121), (1, 0x122), (2, 0x143), (3, 0x163)] {
        assert_eq!(find(0x4, index)[0], eax, "{index}");
    }
    assert_eq!(find(0xb, 1), [0, 1, 0x201, 0]);
}

#[test]
fn the_second_of_four_vcpus_on_amd() {
    let expected: [Leaf; 12] = [
        (0x0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        (
            0x1,
            0,
            [
                0x00a0_0f11,
                0x0104_0800,
                (0x76f8_320b & !0x28) | 0x8100_0000,
                0x178b_fbff,
            ],
        ),
        // SVM is bit 2.
        (
            0x8000_0001,
            0,
            [0x00a0_0f11, 0x4000_0000, 0x75c2_37fb, 0x2fd3_fbff],
        ),
        (0x8000_0008, 0, [0x3030, 0x111e_f657, 0x2003, 0x0001_0007]),
        (0x8000_001d, 0, [0x0000_0121, 0x01c0_003f, 0x3f, 0]),
        (0x8000_001d, 2, [0x0000_0143, 0x01c0_003f, 0x3ff, 2]),
        (0x8000_001d, 3, [0x0000_c163, 0x03c0_003f, 0x7fff, 1]),
        (0x8000_001d, 4, [0, 0, 0, 0]),
        (0x8000_001e, 0, [1, 1, 0, 0]),
        (0xb, 0, [0, 1, 0x100, 1]),
        (0xb, 1, [2, 4, 0x201, 1]),
        (0xb, 2, [0, 0, 2, 1]),
    ];
    assert_eq!(seen(&AMD, 1, 4), expected);
}

#[test]
fn fields_are_not_exceeded_by_many_vcpus() {
    let intel = seen(&INTEL, 254, 255);
    let find = |leaves: &[Leaf], function, index| {
        leaves
            .iter()
            .find(|l| (l.0, l.1) == (function, index))
            .unwrap()
            .2
    };
    // [23:16] has room for 128 as the next power of two of 8 bits, [31:26] for 64 cores.
    assert_eq!(find(&intel, 0x1, 0)[1], 0xfe80_0800);
    assert_eq!(find(&intel, 0x4, 3)[0], 0x3f << 26 | 254 << 14 | 0x163);
    assert_eq!(find(&intel, 0xb, 1), [8, 255, 0x201, 254]);
    let amd = seen(&AMD, 300, 1000);
    assert_eq!(find(&amd, 0x8000_0008, 0)[2], 10 << 12 | 0xff);
    assert_eq!(find(&amd, 0x8000_001d, 3)[0], 999 << 14 | 0x163);
    assert_eq!(find(&amd, 0x8000_001e, 0), [300, 300 & 0xff, 0, 0]);
}

#[test]
fn a_host_without_the_topology_leaf_gets_none() {
    let old = [(0x0, 0, [0xa, 0, 0, 0]), (0x1, 0, [0; 4])];
    let functions: Vec<u32> = seen(&old, 0, 2).iter().map(|leaf| leaf.0).collect();
    assert_eq!(functions, [0, 1]);
    let new = [(0x0, 0, [0xb, 0, 0, 0])];
    assert_eq!(seen(&new, 0, 2).len(), 4);
}
