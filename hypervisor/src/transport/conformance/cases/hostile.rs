//! Requests with one error.

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::guest::{BUFFERS, END, HOLE, TABLES};
use super::super::rig::Rig;
use super::super::shape::{Shape, Split};
use crate::virtio::testing::{Desc, INDIRECT, NEXT, WRITE};

/// A way to make a descriptor invalid; `size` is that of the ring, `index` the descriptor's.
type Spoil = fn(desc: Desc, index: u16, size: u16) -> Desc;

const SPOILS: &[(&str, Spoil)] = &[
    ("no length", |d, _, _| (d.0, 0, d.2, d.3)),
    ("one byte", |d, _, _| (d.0, 1, d.2, d.3)),
    ("the longest length", |d, _, _| (d.0, u32::MAX, d.2, d.3)),
    ("longer than 2 GiB", |d, _, _| (d.0, 1 << 31, d.2, d.3)),
    ("all memory", |d, _, _| (0, u32::MAX, d.2, d.3)),
    ("behind memory", |d, _, _| (END, d.1, d.2, d.3)),
    ("across the end", |d, _, _| (END - 8, d.1, d.2, d.3)),
    ("in the hole", |d, _, _| (HOLE + 64, d.1, d.2, d.3)),
    ("into the hole", |d, _, _| (HOLE - 8, d.1, d.2, d.3)),
    ("over the hole", |d, _, _| {
        (HOLE - 8, (4 << 20) + 64, d.2, d.3)
    }),
    ("at the last address", |d, _, _| (u64::MAX, d.1, d.2, d.3)),
    ("over the last address", |d, _, _| {
        (u64::MAX - 7, d.1, d.2, d.3)
    }),
    ("nothing behind memory", |d, _, _| (END, 0, d.2, d.3)),
    ("the other direction", |d, _, _| {
        (d.0, d.1, d.2 ^ WRITE, d.3)
    }),
    ("a loop on itself", |d, i, _| (d.0, d.1, d.2 | NEXT, i)),
    ("a loop to the first", |d, _, _| (d.0, d.1, d.2 | NEXT, 0)),
    ("a long loop", |d, _, _| (d.0, u32::MAX, d.2 | NEXT, 0)),
    ("next behind the table", |d, _, s| (d.0, d.1, d.2 | NEXT, s)),
    ("the last next", |d, _, _| (d.0, d.1, d.2 | NEXT, u16::MAX)),
    ("next is empty", |d, _, s| (d.0, d.1, d.2 | NEXT, s - 1)),
    ("no next", |d, _, _| (d.0, d.1, d.2 & !NEXT, d.3)),
    ("a table of bytes", |d, _, _| (d.0, 32, d.2 | INDIRECT, d.3)),
    ("a table that is no table", |_, _, _| {
        (BUFFERS, 17, INDIRECT, 0)
    }),
    ("an empty table", |_, _, _| (BUFFERS, 0, INDIRECT, 0)),
    ("the longest table", |_, _, _| (0, !15, INDIRECT, 0)),
    ("a table behind memory", |_, _, _| (END, 64, INDIRECT, 0)),
    ("a table over the end", |_, _, _| {
        (END - 16, 64, INDIRECT, 0)
    }),
    ("a table with a next", |d, _, _| {
        (TABLES, 16, INDIRECT | NEXT, d.3)
    }),
    ("a table in itself", |_, _, _| (TABLES, 64, INDIRECT, 0)),
    ("all flags", |d, _, _| (d.0, d.1, u16::MAX, d.3)),
];

/// A chain with one bad descriptor does no harm, and the device works after a reset.
pub fn bad_descriptors<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    let shape = Shape {
        split: Split::At(20),
        indirect: false,
    };
    for indirect in [false, true] {
        let shape = Shape { indirect, ..shape };
        let chains = rig.fixture.request(&rig.guest).len();
        for chain in 0..chains {
            let mut place = 0;
            loop {
                if !spoil_all(&mut rig, shape, chain, place) {
                    break;
                }
                place += 1;
            }
        }
    }
}

/// Makes descriptor `place` of a chain invalid in every way; false if it does not exist.
fn spoil_all<F: Fixture, D: Driver>(
    rig: &mut Rig<F, D>,
    shape: Shape,
    chain: usize,
    place: usize,
) -> bool {
    for (what, spoil) in SPOILS {
        let request = rig.fixture.request(&rig.guest);
        // Tables that point to themselves.
        let table: Vec<u8> = (0..64)
            .flat_map(|_| {
                let mut bytes = TABLES.to_le_bytes().to_vec();
                bytes.extend([64, 0, 0, 0, 5, 0, 0, 0]);
                bytes
            })
            .collect();
        rig.guest.write(TABLES, &table);
        let mut placed = Vec::new();
        rig.begin();
        for chain in &request {
            placed.push(rig.place(chain, shape));
        }
        let bad = &mut placed[chain];
        let index = bad.table.1 + place as u16;
        let size = rig.queues[bad.queue].size();
        let Some(desc) = bad.descs.get_mut(place) else {
            return false;
        };
        let note = Note(format!(
            "{what}, descriptor {place} of chain {chain}: {desc:x?}"
        ));
        *desc = spoil(*desc, index, size);
        rig.write_descs(&placed[chain]);
        for chain in &placed {
            rig.queues[chain.queue].offer(chain.head);
        }
        rig.kick_all(&request);
        rig.wait_until_idle();
        rig.recover();
        drop(note);
    }
    true
}

/// Prints the current step when a test fails.
pub struct Note(pub String);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {}", self.0);
        }
    }
}

/// A ring that breaks the rules is no longer served, and the device reports this; the device
/// works after a reset.
pub fn broken_rings<F: Fixture, D: Driver>() {
    type Break = fn(&mut crate::virtio::testing::Rings);
    let breaks: [(&str, Break); 5] = [
        ("a head behind the table", |rings| rings.offer(rings.size())),
        ("the last head", |rings| rings.offer(u16::MAX)),
        ("an index that jumps", |rings| {
            rings.set_avail_index(rings.avail_index().wrapping_add(rings.size() + 1));
        }),
        ("an index that goes back", |rings| {
            rings.set_avail_index(rings.used_index().wrapping_sub(1));
        }),
        ("an index half way round", |rings| {
            rings.set_avail_index(rings.avail_index().wrapping_add(1 << 15));
        }),
    ];
    let mut rig = Rig::<F, D>::new();
    for (what, break_it) in breaks {
        let note = Note(what.into());
        // A valid request comes first, so that a waiting device reads the ring.
        let request = rig.fixture.request(&rig.guest);
        let queue = request.last().unwrap().queue;
        rig.offer_all(&request, Shape::PLAIN);
        break_it(&mut rig.queues[queue]);
        rig.kick_all(&request);
        rig.wait_failed();
        rig.recover();
        drop(note);
    }
}

/// A chain is offered twice, and more chains are offered than there are descriptors.
pub fn heads_offered_again<F: Fixture, D: Driver>() {
    let mut rig = Rig::<F, D>::new();
    let request = rig.fixture.request(&rig.guest);
    for _ in 0..20 {
        let placed = rig.offer_all(&request, Shape::PLAIN);
        for chain in &placed {
            let size = rig.queues[chain.queue].size();
            for _ in 1..size {
                rig.queues[chain.queue].offer(chain.head);
            }
        }
        rig.kick_all(&request);
        rig.wait_until_idle();
        rig.recover();
    }
}
