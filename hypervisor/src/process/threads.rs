//! The state of a host process's threads, for finding out why it makes no progress.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// A snapshot of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadState {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// proc(5), field 3 of `stat`: `R` runs, `S` and `D` wait.
    pub state: char,
    /// The kernel function in which it waits; `0` if it runs, or if this is hidden.
    pub waits_in: String,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.state, self.waits_in)
    }
}

/// The threads of a process now, in the order of their ids.
///
/// # Errors
/// The error of reading `/proc`, if the process does not exist.
pub fn threads(pid: u32) -> io::Result<Vec<ThreadState>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        // Threads that have ended meanwhile are skipped.
        threads.extend(thread(&path));
    }
    threads.sort_by_key(|thread| thread.tid);
    Ok(threads)
}

fn thread(path: &Path) -> Option<ThreadState> {
    let read = |name: &str| fs::read_to_string(path.join(name)).ok();
    let stat = read("stat")?;
    // The name may have any characters.
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    let ran = read("schedstat").unwrap_or_default();
    let ran = ran.split_whitespace().next().map(str::parse);
    Some(ThreadState {
        tid: path.file_name()?.to_str()?.parse().ok()?,
        name: read("comm")?.trim_end().to_owned(),
        state,
        waits_in: read("wchan").unwrap_or_else(|| "0".to_owned()),
        cpu_ns: ran.and_then(Result::ok).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    #[test]
    fn a_waiting_thread_is_distinguished_from_a_running_one() {
        let (end, ended) = mpsc::channel::<()>();
        let waiting = std::thread::Builder::new().name("waits".into());
        let waiting = waiting.spawn(move || ended.recv().is_err()).unwrap();
        let find = |name: &str| {
            let all = threads(std::process::id()).unwrap();
            all.into_iter().find(|thread| thread.name == name)
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while find("waits").is_none_or(|thread| thread.state != 'S') {
            assert!(Instant::now() < deadline, "it does not wait");
            std::thread::yield_now();
        }
        let me = fs::read_to_string("/proc/thread-self/comm").unwrap();
        let me = || find(me.trim_end()).unwrap();
        assert_eq!(me().state, 'R');
        // The kernel updates it at its ticks, and when another thread runs.
        while me().cpu_ns == 0 {
            assert!(Instant::now() < deadline, "no time is counted");
        }
        drop(end);
        assert!(waiting.join().unwrap());
        let gone = threads(u32::MAX).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
