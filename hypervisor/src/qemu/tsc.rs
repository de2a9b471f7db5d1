//! The rate of the host's time stamp counter.
//!
//! A guest on the microvm machine has no clock for measuring its counter, and under TCG it does
//! not have KVM's clock either. Without the rate on its command line it is very slow or hangs.
//! Under TCG its counter is the host's.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// Over this time, the measured rate is accurate to some parts in a million.
const SPAN: Duration = Duration::from_millis(10);

/// A measurement that started when it was made.
#[derive(Clone, Copy)]
pub(super) struct TscClock {
    start: (Instant, u64),
}

impl TscClock {
    /// Starts a measurement.
    pub fn start() -> TscClock {
        TscClock { start: sample() }
    }

    /// The rate. Waits until the measurement is long enough.
    pub async fn khz(&self) -> u64 {
        let left = SPAN.saturating_sub(self.start.0.elapsed());
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
        let end = sample();
        let nanos = (end.0 - self.start.0).as_nanos().max(1);
        let ticks = u128::from(end.1.wrapping_sub(self.start.1));
        u64::try_from(ticks * 1_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

/// Reads both clocks at the same time: takes the fastest of a few readings, which was not
/// interrupted.
fn sample() -> (Instant, u64) {
    let read = || {
        let before = Instant::now();
        // SAFETY: reads a register that Linux lets user space read.
        let ticks = unsafe { _rdtsc() };
        (before.elapsed(), (before, ticks))
    };
    let mut best = read();
    for _ in 0..4 {
        let next = read();
        if next.0 < best.0 {
            best = next;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rate_is_plausible_and_repeatable() {
        let first = TscClock::start().khz().await;
        let second = TscClock::start().khz().await;

        assert!((500_000..10_000_000).contains(&first), "{first}");
        assert!(first.abs_diff(second) < first / 1000, "{first} {second}");
    }
}
