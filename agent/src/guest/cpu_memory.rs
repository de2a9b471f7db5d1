//! Hot-plug of CPUs and memory.
//!
//! All CPUs that the guest can have exist from the boot on; those beyond the first `maxcpus=`
//! are offline. Memory comes by virtio-mem: its driver adds blocks of memory when the host
//! requests it, and the kernel brings them online as configured by [`set_policy`]. The files
//! are described in the kernel's Documentation/admin-guide/cputopology.rst and
//! mm/memory-hotplug.rst.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Context, Error, Result};
use crate::sync::lock;

/// The mount point of sysfs.
pub const SYS: &str = "/sys";

const CPUS: &str = "devices/system/cpu";
const MEMORY: &str = "devices/system/memory";

/// The kernel's policy for a new memory block. With "online" alone the kernel would also use it
/// for its own data, and could not give it back. With this policy, three quarters of a block
/// hold movable pages only. A larger share would be too much, since the kernel's own tables
/// grow with memory.
const POLICY: [(&str, &str); 2] = [
    (
        "module/memory_hotplug/parameters/online_policy",
        "auto-movable",
    ),
    ("devices/system/memory/auto_online_blocks", "online"),
];

/// Held during a resize: one runs at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Makes the kernel bring new memory online automatically. Must be called before the driver of
/// virtio-mem is loaded.
pub fn set_policy(sys: &Path) {
    for (file, value) in POLICY {
        match fs::write(sys.join(file), value) {
            // A kernel without memory hot-plug.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::warn!("{file}: {e}"),
            Ok(()) => {}
        }
    }
}

/// Brings CPUs online or offline until `cpus` are online (0: no change), and all available
/// memory online. Blocks.
pub fn resize(sys: &Path, cpus: usize) -> Result<()> {
    let _turn = lock(&TURN);
    online_memory(&sys.join(MEMORY))?;
    set_cpus(&sys.join(CPUS), cpus)
}

/// Brings the lowest CPUs online and the highest offline until `wanted` are online (0: no
/// change). CPU 0 always is.
fn set_cpus(folder: &Path, wanted: usize) -> Result<()> {
    let cpus = numbered(folder, "cpu")?;
    if wanted > cpus.len() {
        let there = cpus.len();
        let expected = format!("at most {there}");
        return Err(Error::invalid("number of CPUs", wanted, expected));
    }
    if wanted == 0 {
        return Ok(());
    }
    for (at, path) in cpus.iter().enumerate() {
        let must = at < wanted;
        if is_online(path)? != must {
            let way = if must { "on" } else { "off" };
            fs::write(path.join("online"), if must { "1" } else { "0" })
                .what(format!("bring {} {way} line", path.display()))?;
        }
    }
    Ok(())
}

/// A CPU that cannot go offline, such as CPU 0, does not have this file.
fn is_online(cpu: &Path) -> Result<bool> {
    let path = cpu.join("online");
    match fs::read_to_string(&path) {
        Ok(state) => Ok(state.trim() == "1"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e).path(path),
    }
}

/// Brings blocks online that came before the policy was set.
fn online_memory(folder: &Path) -> Result<()> {
    for block in numbered(folder, "memory")? {
        let path = block.join("state");
        match online_block(&path) {
            // The driver has removed it meanwhile.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            result => result.path(path)?,
        }
    }
    Ok(())
}

/// Brings a block of memory online. The kernel does the same with plugged memory; the second
/// attempt fails with EINVAL (`state_store` in drivers/base/memory.c).
fn online_block(state: &Path) -> io::Result<()> {
    let is_offline = || Ok::<_, io::Error>(fs::read_to_string(state)?.trim() == "offline");
    if !is_offline()? {
        return Ok(());
    }
    match fs::write(state, "online") {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) && !is_offline()? => Ok(()),
        other => other,
    }
}

/// The directories with a name of `prefix` and a number, sorted by number. Empty if the kernel
/// does not have this feature.
fn numbered(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.path(folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.path(folder)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// Makes a directory like `/sys`, with a file for each path and content.
    fn sys(files: &[(&str, &str)]) -> TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = sys.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        sys
    }

    /// Twelve CPUs; the first three and the last one are online.
    fn twelve_cpus() -> TempDir {
        let files: Vec<_> = (1..12)
            .map(|n| {
                let state = if [1, 2, 11].contains(&n) {
                    "1\n"
                } else {
                    "0\n"
                };
                (format!("devices/system/cpu/cpu{n}/online"), state)
            })
            .collect();
        let mut files: Vec<_> = files.iter().map(|(f, s)| (f.as_str(), *s)).collect();
        files.push(("devices/system/cpu/cpu0/topology/core_id", "0\n"));
        files.push(("devices/system/cpu/cpufreq/boost", "0\n"));
        sys(&files)
    }

    fn online(sys: &TempDir) -> Vec<usize> {
        let state = |n: usize| read(sys, &format!("devices/system/cpu/cpu{n}/online"));
        (1..12).filter(|n| state(*n).trim() == "1").collect()
    }

    fn read(sys: &TempDir, file: &str) -> String {
        fs::read_to_string(sys.path().join(file)).unwrap()
    }

    fn resize(sys: &TempDir, cpus: usize) -> Result<()> {
        super::resize(sys.path(), cpus)
    }

    #[test]
    fn the_first_cpus_are_on_line_and_no_others() {
        let sys = twelve_cpus();
        let steps: [(usize, &[usize]); 4] = [
            (11, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            (4, &[1, 2, 3]),
            (1, &[]),
            (12, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ];
        for (wanted, expected) in steps {
            resize(&sys, wanted).unwrap();
            assert_eq!(online(&sys), expected);
        }
    }

    #[test]
    fn no_wish_leaves_the_cpus_as_they_are() {
        let sys = twelve_cpus();
        resize(&sys, 0).unwrap();
        assert_eq!(online(&sys), [1, 2, 11]);
    }

    #[test]
    fn more_cpus_than_there_are_is_the_callers_fault() {
        let sys = twelve_cpus();
        let err = resize(&sys, 13).unwrap_err();
        assert!(
            matches!(
                &err,
                Error::InvalidValue { value, expected, .. }
                    if value == "13" && expected.contains("12")
            ),
            "{err}"
        );
        assert_eq!(online(&sys), [1, 2, 11]);
    }

    #[test]
    fn a_cpu_that_fails_is_named() {
        let sys = twelve_cpus();
        let file = sys.path().join("devices/system/cpu/cpu3/online");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let err = resize(&sys, 5).unwrap_err();
        assert!(err.to_string().contains("cpu3/online"), "{err}");
    }

    #[test]
    fn memory_that_is_off_line_is_taken_into_use() {
        let state = |n| format!("devices/system/memory/memory{n}/state");
        let files = [
            (state(0), "online\n"),
            (state(7), "offline\n"),
            (state(32), "going-offline\n"),
        ];
        let files: Vec<_> = files.iter().map(|(f, s)| (f.as_str(), *s)).collect();
        let sys = sys(&files);
        // It disappears between the listing and the reading.
        fs::create_dir(sys.path().join("devices/system/memory/memory8")).unwrap();

        resize(&sys, 0).unwrap();

        let states = [0, 7, 32].map(|n| read(&sys, &state(n)));
        assert_eq!(states, ["online\n", "online", "going-offline\n"]);
    }

    #[test]
    fn policy_is_set_where_there_is_one() {
        let sys = sys(&POLICY.map(|(file, _)| (file, "offline\n")));
        set_policy(sys.path());
        for (file, value) in POLICY {
            assert_eq!(read(&sys, file), value);
        }
        let none = tempfile::tempdir().unwrap();
        set_policy(none.path());
        assert_eq!(fs::read_dir(none.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_what_is_not_there_is_not() {
        let none = tempfile::tempdir().unwrap();
        resize(&none, 0).unwrap();
        assert!(matches!(resize(&none, 1), Err(Error::InvalidValue { .. })));
        let path_of = |sys: &TempDir| match resize(sys, 0) {
            Err(Error::File { path, .. }) => path.strip_prefix(sys.path()).unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        for file in [MEMORY, CPUS] {
            let sys = sys(&[(file, "not a directory")]);
            assert_eq!(path_of(&sys), Path::new(file));
        }
        let sys = sys(&[("devices/system/memory/memory7/state/x", "a directory")]);
        assert_eq!(
            path_of(&sys),
            Path::new("devices/system/memory/memory7/state")
        );
    }

    #[test]
    fn names_with_a_number_are_sorted_by_it() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu9", "cpu", "cpufreq", "cpu-1", "xcpu1", "cpu0"] {
            fs::create_dir(sys.path().join(name)).unwrap();
        }
        let found = numbered(sys.path(), "cpu").unwrap();
        assert_eq!(
            found,
            ["cpu0", "cpu9", "cpu10"].map(|name| sys.path().join(name))
        );
    }
}
