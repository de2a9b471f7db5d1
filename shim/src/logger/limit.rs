//! A limit on how often one place in the code may log, since a guest or a process in it may be
//! able to trigger a message at will. As with the kernel's `printk_ratelimited`, each place may
//! log a burst of lines per period. The first line of the next period says how many were left
//! out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Record};

/// The period of a burst.
const WHILE: Duration = Duration::from_secs(60);

/// The lines that a place may log per period.
const BURST: u32 = 20;

/// The same for debug lines, which come with each operation.
const DEBUG_BURST: u32 = 1000;

/// A place in the code: file and line.
type Place = (&'static str, u32);

#[derive(Debug, Clone, Copy)]
struct Spent {
    since: Instant,
    lines: u32,
}

/// What each place has logged.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<Place, Spent>>);

impl Limiter {
    /// Returns `None` if the line may not be logged, else the number of lines of its place that
    /// were left out before it.
    pub fn pass(&self, record: &Record) -> Option<u32> {
        let place = (
            record.file_static().unwrap_or_default(),
            record.line().unwrap_or_default(),
        );
        let burst = match record.level() {
            Level::Error | Level::Warn | Level::Info => BURST,
            Level::Debug | Level::Trace => DEBUG_BURST,
        };
        self.pass_at(place, burst, Instant::now())
    }

    fn pass_at(&self, place: Place, burst: u32, now: Instant) -> Option<u32> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Spent {
            since: now,
            lines: 0,
        };
        let spent = places.entry(place).or_insert(fresh);
        let mut left_out = 0;
        if now.duration_since(spent.since) >= WHILE {
            left_out = spent.lines.saturating_sub(burst);
            *spent = fresh;
        }
        spent.lines = spent.lines.saturating_add(1);
        (spent.lines <= burst).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_burst_and_tells_what_it_left_out() {
        let limiter = Limiter::default();
        let start = Instant::now();
        let passed = (0..100_000).filter(|_| limiter.pass_at(("a", 1), BURST, start).is_some());
        assert_eq!(passed.count(), BURST as usize);
        // Another place is not silenced by it.
        assert_eq!(limiter.pass_at(("a", 2), BURST, start), Some(0));
        let soon = start + WHILE - Duration::from_millis(1);
        assert_eq!(limiter.pass_at(("a", 1), BURST, soon), None);
        let later = start + WHILE;
        assert_eq!(
            limiter.pass_at(("a", 1), BURST, later),
            Some(100_001 - BURST)
        );
        assert_eq!(limiter.pass_at(("a", 1), BURST, later), Some(0));
    }
}
