//! Loads the kernel modules of the initrd. `/lib/modules/load.list` names one file per line,
//! dependencies first; they are loaded at boot. `later.list` names those that are loaded with
//! the first hot-plugged device. An initrd for a kernel with all drivers built in has no lists.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Once;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// The directory of the modules in the initrd.
pub const MODULES: &str = "/lib/modules";

/// The modules for the boot.
pub const BOOT: &str = "load.list";

const LATER: &str = "later.list";

/// Loads the drivers of hot-plugged devices, once.
pub fn load_later() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(e) = load(Path::new(MODULES), LATER) {
            log::error!("{MODULES}/{LATER}: {e}");
        }
    });
}

/// Loads the modules of a list in `folder`. Logs and skips a module that cannot be loaded: a
/// later step that needs it fails with a better error.
pub fn load(folder: &Path, list: &str) -> io::Result<()> {
    let list = match fs::read_to_string(folder.join(list)) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for name in names(&list) {
        if let Err(e) = load_one(&folder.join(name)) {
            log::error!("module {name}: {e}");
        }
    }
    Ok(())
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn load_one(path: &Path) -> io::Result<()> {
    const NO_PARAMETERS: &CStr = c"";
    let file = File::open(path)?;
    match finit_module(&file, NO_PARAMETERS, ModuleInitFlags::empty()) {
        // It is loaded already, or built in.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_may_hold_comments() {
        let list = "# vsock\nvsock.ko\n\n  virtio_transport.ko \n";
        assert_eq!(
            names(list).collect::<Vec<_>>(),
            ["vsock.ko", "virtio_transport.ko"]
        );
    }

    #[test]
    fn no_list_means_no_modules() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), BOOT).unwrap();
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_a_bad_module_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(BOOT)).unwrap();
        let unreadable = load(folder.path(), BOOT).unwrap_err();
        assert_eq!(unreadable.raw_os_error(), Some(libc::EISDIR));
        fs::write(folder.path().join("bad.ko"), "no module").unwrap();
        assert!(load_one(&folder.path().join("bad.ko")).is_err());
        assert!(load_one(&folder.path().join("none.ko")).is_err());
        fs::write(folder.path().join("list"), "bad.ko\nnone.ko\n").unwrap();
        load(folder.path(), "list").unwrap();
    }
}
