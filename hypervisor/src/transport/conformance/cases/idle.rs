//! An idle device uses no processor time.

use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::super::driver::Driver;
use super::super::fixtures::Fixture;
use super::super::rig::Rig;
use super::super::shape::Shape;
use super::random;
use crate::virtio::testing::NEXT;

/// Set in a process that runs a single test.
const ALONE: &str = "RUST_KATA_CONFORMANCE_ALONE";
/// The time of the observation, and the limit of processor time: low enough to detect a busy
/// loop on a busy machine.
const LOOK: Duration = Duration::from_millis(100);
const ALLOWED: Duration = Duration::from_millis(5);

/// A device is idle without requests, and with invalid requests only.
///
/// Processor time is known only for whole processes, so this runs in a separate one: `test` is
/// the full name of the test.
pub fn device_rests<F: Fixture, D: Driver>(test: &str) {
    if std::env::var_os(ALONE).is_none() {
        let (_, name) = test.split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        return;
    }

    let mut rig = Rig::<F, D>::new();
    rests("at its start");
    rig.works();
    rests("after a request");
    // A loop: after it, the device looks for the next chain.
    for index in 0..rig.queues.len() {
        let rings = &mut rig.queues[index];
        rings.descriptor(0, (0, 0, NEXT, 0));
        rings.offer(0);
        rig.driver.kick(index);
    }
    rig.wait_until_idle();
    rests("after a bad chain");
    rig.recover();
    random::some_rings(&mut rig);
    rests("after rings of nonsense");
    rig.recover();
    let request = rig.fixture.request(&rig.guest);
    let queue = request.last().unwrap().queue;
    rig.offer_all(&request, Shape::PLAIN);
    rig.queues[queue].offer(u16::MAX);
    rig.kick_all(&request);
    rig.wait_failed();
    rests("with a broken ring");
    rig.driver.pause();
    rests("during a pause");
    rig.driver.resume();
    rig.recover();
}

fn rests(when: &str) {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let time = usage.user_time() + usage.system_time();
        Duration::from_micros(time.num_microseconds() as u64)
    };
    let before = used();
    std::thread::sleep(LOOK);
    let taken = used() - before;
    assert!(taken < ALLOWED, "{taken:?} of {LOOK:?} {when}");
}
