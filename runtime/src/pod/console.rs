//! The guest's last console output, for errors and the log.

use std::fs;
use std::path::Path;

use crate::state_dir::paths::RunPaths;

/// The end of the guest's console, which may show why it does not work.
pub(crate) fn console_tail(dir: &RunPaths) -> String {
    let text = fs::read(Path::new(&dir.vm()).join("console.log")).unwrap_or_default();
    let end = last_words(&text);
    if end.is_empty() {
        end
    } else {
        format!("; the guest's console ends with:\n{end}")
    }
}

/// The last lines of a console; after a failure of the kernel, its whole report.
fn last_words(console: &[u8]) -> String {
    /// The number of bytes without a kernel failure.
    const USUAL: usize = 600;
    const MOST: usize = 4096;
    /// The beginnings of Linux's failure reports on x86 (`arch/x86/mm/fault.c`,
    /// `arch/x86/kernel/traps.c`, `kernel/panic.c`).
    const FAILURES: [&str; 4] = [
        "BUG: ",
        "Oops: ",
        "general protection fault",
        "Kernel panic",
    ];
    let usual = console.len().saturating_sub(USUAL);
    let find = |words: &str| {
        let mut places = console.windows(words.len());
        places.position(|place| place == words.as_bytes())
    };
    let failure = FAILURES.into_iter().filter_map(find).min();
    let from = failure.map_or(usual, |at| at.min(usual));
    let to = console.len().min(from + MOST);
    let end = String::from_utf8_lossy(&console[from..to]);
    hypervisor::text::lines(end.replace('\r', "").trim(), MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_guests_kernel_is_told_from_its_beginning() {
        let boot = "[    0.1] all is well\n".repeat(1000);
        assert_eq!(last_words(b""), "");
        assert!((500..=600).contains(&last_words(boot.as_bytes()).len()));
        let registers = "R10: ffffffff81c060d0\n".repeat(50);
        let failed = format!("{boot}BUG: unable to handle page fault\n{registers}Kernel panic\n");
        let shown = last_words(failed.as_bytes());
        assert!(
            shown.starts_with("BUG: ") && shown.ends_with("Kernel panic"),
            "{shown}"
        );
        assert_eq!(last_words(b"one\r\ntwo\r\n"), "one\ntwo");
        // Even repeated failures give a short message.
        let endless = failed.repeat(100);
        assert!(last_words(endless.as_bytes()).len() <= 4096);
    }
}
