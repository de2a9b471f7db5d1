//! A VMM under an attacker's control, in the jail that its owner makes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use test_support::require;

use super::*;
use crate::process::{Launch, Namespaces};
use crate::vm_process::{ExitStatus, Role};

/// Set if mounts are visible to this process and its children only.
const OWN_MOUNTS: &str = "RUST_KATA_TEST_OWN_MOUNTS";
const TEST: &str = "jail::tests::it_opens_nothing_to_write_but_what_is_shared";

/// Runs the test with this name again.
fn again(program: &mut Command) -> &mut Command {
    program.arg(std::env::current_exe().unwrap());
    program.args(["--exact", TEST, "--nocapture", "--test-threads=1"])
}

#[test]
fn it_opens_nothing_to_write_but_what_is_shared() {
    require!(test_support::root());
    if std::process::id() == 1 {
        taken_over();
    } else if std::env::var_os(OWN_MOUNTS).is_some() {
        owner();
    } else {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        let output = again(&mut command).env(OWN_MOUNTS, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(said.contains("1 passed"), "{said}");
    }
}

/// Starts the process as a VM's owner does, with read-only files.
fn owner() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for dir in ["share/volume", "sockets", "volume/from", "volume/to"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    for file in ["disk", "kernel"] {
        fs::write(path(file), "content").unwrap();
    }
    fs::write(path("volume/from/file"), "").unwrap();
    let (volume, target) = (path("volume"), path("share/volume"));
    let none = None::<&str>;
    mount(Some(&volume), &target, none, MsFlags::MS_BIND, none).unwrap();

    let plain: OwnedFd = File::open(path("disk")).unwrap().into();
    let fixed = crate::open_read_only(&path("kernel")).unwrap();
    let dir: OwnedFd = File::open(place.path()).unwrap().into();
    let launch = Launch {
        role: Role::Vmm,
        program: std::env::current_exe().unwrap(),
        args: ["--exact", TEST, "--nocapture", "--test-threads=1"]
            .map(Into::into)
            .to_vec(),
        log: path("log"),
        namespaces: Namespaces::Own,
        cgroup: None,
        fds: vec![plain, fixed, dir],
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let exit = runtime.block_on(async { launch.start().await.unwrap().exited().await });

    let said = fs::read_to_string(path("log")).unwrap();
    assert_eq!(exit.status, ExitStatus::Code(0), "{said}");
    assert!(said.contains("all was tried"), "{said}");
    for file in ["disk", "kernel"] {
        assert_eq!(fs::read_to_string(path(file)).unwrap(), "content");
    }
    assert!(path("volume/to/file").exists(), "the share is the guest's");
    // Modes are the guest's: the jail has no umask.
    let new = fs::metadata(path("volume/new")).unwrap();
    assert_eq!(new.permissions().mode() & 0o7777, 0o666);
}

/// The targets of this process's descriptors.
fn links() -> Vec<(i32, PathBuf)> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| {
            let path = fd.unwrap().path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, fs::read_link(path).ok()?))
        })
        .collect()
}

/// The abilities of a guest that has taken over a thread of the file server.
fn taken_over() {
    let find = |is: &dyn Fn(&Path) -> bool| {
        let links = links();
        let mut found = links.into_iter().filter(|(_, path)| is(path));
        found.next().unwrap()
    };
    let (disk, path) = find(&|path| path.ends_with("disk"));
    // A file with a separate mount is the root of that mount.
    let (kernel, _) = find(&|path| path == Path::new("/"));
    let dir = path.parent().unwrap().to_owned();
    let jail = Jail {
        share: dir.join("share"),
        sockets: dir.join("sockets"),
    };
    jail.enter().unwrap();

    run(ThreadKind::Fs, "taken-over", move || {
        for fd in [disk, kernel] {
            attack(Path::new(&format!("/proc/self/fd/{fd}")));
        }
        // No file can be made outside the share either.
        for path in ["/new", "/vsock/new", "/proc/new"] {
            let refused = create(Path::new(path)).unwrap_err();
            let barred = [libc::EROFS, libc::EACCES, libc::ENOENT].map(Some);
            assert!(
                barred.contains(&refused.raw_os_error()),
                "{path}: {refused}"
            );
        }
        mounts_are_restricted();
        // Read before, since the system call is forbidden here.
        assert_ne!(max_open_files(), 0);
        let volume = Path::new("/share/volume");
        create(&volume.join("new")).unwrap();
        rename(&volume.join("from/file"), &volume.join("to/file"))
    })
    .unwrap();
    eprintln!("all was tried");
    // Without the normal end of the test, which the filter does not allow.
    std::process::exit(0);
}

/// Flags of statvfs(3): read-only, no set-id bits, no devices, no programs.
fn mounts_are_restricted() {
    for (path, flags) in [
        ("/", 0b1111),
        ("/share", 0b1111),
        ("/share/volume", 0b1110),
        ("/vsock", 0b1110),
        ("/proc/self/fd", 0b1111),
    ] {
        let flags_of_open = rustix::fs::OFlags::PATH;
        let mode = rustix::fs::Mode::empty();
        let file = rustix::fs::openat(rustix::fs::CWD, path, flags_of_open, mode);
        let found = rustix::fs::fstatvfs(file.unwrap()).unwrap().f_flag;
        assert_eq!(found.bits() & 0b1111, flags, "{path}");
    }
}

/// Tries to reopen a read-only file in each way that could change it.
fn attack(link: &Path) {
    for (write, flags) in [
        (true, 0),
        (true, libc::O_APPEND),
        (true, libc::O_TRUNC),
        (false, libc::O_TRUNC),
    ] {
        let mut options = OpenOptions::new();
        options.read(true).write(write).custom_flags(flags);
        let err = options.open(link).expect_err("it was opened");
        let denied = [libc::EACCES, libc::EROFS].map(Some);
        assert!(denied.contains(&err.raw_os_error()), "{err}");
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Without std, which uses a forbidden system call.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let none = rustix::fs::RenameFlags::empty();
    Ok(rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        none,
    )?)
}

#[test]
fn a_process_of_the_host_is_not_confined() {
    let jail = Jail {
        share: "/nonexistent/share".into(),
        sockets: "/nonexistent/sockets".into(),
    };
    let refused = jail.enter().unwrap_err();
    assert!(matches!(refused, JailError::NoNamespaces), "{refused}");
}

#[test]
fn sockets_are_named_in_the_jail_as_outside() {
    for (path, inside) in [("/run/vm/sockets/vsock", "/vsock/vsock"), ("v", "/vsock/v")] {
        assert_eq!(socket(Path::new(path)), Path::new(inside));
    }
}

#[test]
fn work_in_a_thread_gives_its_result_or_the_loss_of_it() {
    let kind = ThreadKind::Simple;
    assert_eq!(run(kind, "test", || Ok(7)).unwrap(), 7);
    let failed = run::<()>(kind, "test", || Err(io::ErrorKind::NotFound.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    let lost = run::<()>(kind, "named", || panic!("as a test wants it"));
    assert!(lost.unwrap_err().to_string().contains("named"));
    let name = || Ok(std::thread::current().name().map(str::to_owned));
    assert_eq!(run(kind, "named", name).unwrap().as_deref(), Some("named"));
}
