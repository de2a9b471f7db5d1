//! Diagnosing a guest that does not answer: its state, as seen from the host, is logged.

use std::time::Duration;

use hypervisor::{ThreadState, threads};

use crate::error::Error;
use crate::pod::console::console_tail;
use crate::pod::vm::GuestVm;

/// The time between two samples, which show the threads that run all the time.
const LOOK: Duration = Duration::from_millis(500);

impl GuestVm {
    /// Logs the state of the VM's threads, and the guest's last console output. Without it, a
    /// vCPU that runs all the time, one that waits for ever, and a device that is stuck in the
    /// host's file system look the same.
    pub(crate) async fn log_stall(&self, error: &Error) {
        let pids = self.pids();
        let look = || pids.iter().map(|pid| threads(*pid).unwrap_or_default());
        let before: Vec<Vec<ThreadState>> = look().collect();
        tokio::time::sleep(LOOK).await;
        let seen: Vec<String> = look()
            .zip(before)
            .zip(&pids)
            .map(|((now, before), pid)| format!("{pid}: {}", busy(&now, &before).join(", ")))
            .collect();
        log::warn!(
            "Pod {}: {error}. Threads of the VM: {}{}",
            self.pod(),
            seen.join("; "),
            console_tail(&self.dir)
        );
    }
}

/// Each thread with the share of the time in which it ran.
fn busy(now: &[ThreadState], before: &[ThreadState]) -> Vec<String> {
    let percent = |thread: &ThreadState| {
        let before = before.iter().find(|other| other.tid == thread.tid);
        let ran = thread
            .cpu_ns
            .saturating_sub(before.map_or(thread.cpu_ns, |before| before.cpu_ns));
        u128::from(ran) * 100 / LOOK.as_nanos()
    };
    now.iter()
        .map(|thread| format!("{thread} {} %", percent(thread)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_all_the_time_is_told() {
        let thread = |tid, cpu_ms: u64| ThreadState {
            tid,
            name: format!("vcpu-{tid}"),
            state: 'R',
            waits_in: "0".into(),
            cpu_ns: cpu_ms * 1_000_000,
        };
        let shown = busy(
            &[thread(0, 700), thread(1, 40)],
            &[thread(0, 200), thread(1, 40)],
        );
        assert_eq!(shown, ["vcpu-0 R 0 100 %", "vcpu-1 R 0 0 %"]);
    }
}
