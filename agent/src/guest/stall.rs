//! The state of the guest's processes, logged to the console when a call is not
//! answered.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

/// The processes are logged each time a helper has not answered for this long.
const AFTER: Duration = Duration::from_secs(20);

/// Waits for the answer of a helper.
pub async fn watch<T>(verb: &str, answer: impl Future<Output = T>) -> T {
    tokio::pin!(answer);
    loop {
        match tokio::time::timeout(AFTER, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) => log_processes(verb),
        }
    }
}

/// Logs all processes of the guest except kernel threads.
fn log_processes(verb: &str) {
    let processes = processes(Path::new("/proc"));
    log::warn!(
        "the {verb} helper has not answered for {} s; processes: {}",
        AFTER.as_secs(),
        processes.join("; ")
    );
}

/// `PID NAME STATE, in KERNEL FUNCTION, call NUMBER`, by pid.
fn processes(proc: &Path) -> Vec<String> {
    let mut found: Vec<(i32, String)> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, process(&entry.path(), pid)?))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, text)| text).collect()
}

fn process(path: &Path, pid: i32) -> Option<String> {
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let stat = read("stat");
    let (name, rest) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1;
    let mut words = rest.split_whitespace();
    let (state, parent) = (words.next()?, words.next()?);
    // kthreadd and its children (Documentation/admin-guide/kernel-per-CPU-kthreads.rst).
    if pid == 2 || parent == "2" {
        return None;
    }
    let call = read("syscall");
    let call = call.split_whitespace().next().unwrap_or("-");
    Some(format!(
        "{pid} {name} {state}, in {}, call {call}",
        read("wchan")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_listed_with_what_they_wait_for() {
        let seen = processes(Path::new("/proc"));
        let me = format!("{} ", std::process::id());
        let mine = seen.iter().find(|line| line.starts_with(&me));
        assert!(mine.is_some_and(|line| line.contains(", in ")), "{seen:?}");
        assert!(!seen.iter().any(|line| line.contains("kthreadd")));
        assert!(processes(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn kernel_threads_are_left_out_and_the_rest_is_in_order() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, stat) in [
            (1, "1 (init) S 0 1"),
            (2, "2 (kthreadd) S 0 0"),
            (3, "3 (kworker) I 2 0"),
            (10, "10 (a) (b) R 22 1"),
            (9, "9 (sh) D 1 1"),
            (11, "nonsense"),
        ] {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("stat"), stat).unwrap();
            fs::write(folder.join("wchan"), "do_wait").unwrap();
        }
        fs::write(proc.path().join("9/syscall"), "61 0x1 0x2").unwrap();
        fs::create_dir(proc.path().join("self")).unwrap();
        let expected = [
            "1 init S, in do_wait, call -",
            "9 sh D, in do_wait, call 61",
            "10 a) (b R, in do_wait, call -",
        ];
        assert_eq!(processes(proc.path()), expected);
    }

    #[tokio::test]
    async fn an_answer_is_passed_on() {
        assert_eq!(watch("create", async { 7 }).await, 7);
    }
}
