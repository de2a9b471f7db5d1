//! The change that a system call is about to make.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The system calls that change files, or sync them.
pub(super) const WATCHED: &[libc::c_long] = &[
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_ftruncate,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_chmod,
    libc::SYS_bind,
    libc::SYS_mount,
    libc::SYS_umount2,
];

/// The effect of a call on its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its contents are written.
    Write,
    /// Its contents are synced.
    Sync,
    /// Everything is synced.
    SyncAll,
    /// It is truncated.
    Truncate,
    /// It is opened with creation or truncation.
    Create,
    /// It is renamed.
    Rename,
    /// It is made, as a directory.
    MakeDir,
    /// Its name is removed.
    Unlink,
    /// It is made, as a hard or symbolic link.
    Link,
    /// Its mode is set.
    Mode,
    /// It is made, as a socket.
    Bind,
    /// It is mounted on.
    Mount,
    /// It is unmounted.
    Unmount,
}

/// A change that is about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The kind of change.
    pub kind: Kind,
    /// The path; of a rename: the new one.
    pub path: PathBuf,
    /// The old path of a rename.
    pub from: Option<PathBuf>,
    /// The process that makes the change.
    pub process: u32,
    /// The path of the descriptor in `/proc`, for calls with a descriptor.
    pub(super) fd: Option<PathBuf>,
}

impl Call {
    /// Reads the call from a notification; `None` if it does not change files, or if its
    /// process has gone.
    pub(super) fn of(request: &libc::seccomp_notif) -> Option<Self> {
        let args = request.data.args;
        let task = Task(request.pid);
        let here = libc::AT_FDCWD;
        let fd = |n: usize| args[n] as i32;
        let (kind, path, from) = match libc::c_long::from(request.data.nr) {
            libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => {
                (Kind::Write, task.of_fd(fd(0))?, None)
            }
            libc::SYS_fsync | libc::SYS_fdatasync => (Kind::Sync, task.of_fd(fd(0))?, None),
            libc::SYS_syncfs => (Kind::SyncAll, task.of_fd(fd(0))?, None),
            libc::SYS_ftruncate => (Kind::Truncate, task.of_fd(fd(0))?, None),
            libc::SYS_open => (changes(args[1])?, task.at(here, args[0])?, None),
            libc::SYS_openat => (changes(args[2])?, task.at(fd(0), args[1])?, None),
            libc::SYS_rename => {
                let from = task.at(here, args[0])?;
                (Kind::Rename, task.at(here, args[1])?, Some(from))
            }
            libc::SYS_renameat | libc::SYS_renameat2 => {
                let from = task.at(fd(0), args[1])?;
                (Kind::Rename, task.at(fd(2), args[3])?, Some(from))
            }
            libc::SYS_mkdir => (Kind::MakeDir, task.at(here, args[0])?, None),
            libc::SYS_mkdirat => (Kind::MakeDir, task.at(fd(0), args[1])?, None),
            libc::SYS_unlink | libc::SYS_rmdir => (Kind::Unlink, task.at(here, args[0])?, None),
            libc::SYS_unlinkat => (Kind::Unlink, task.at(fd(0), args[1])?, None),
            libc::SYS_link | libc::SYS_symlink => (Kind::Link, task.at(here, args[1])?, None),
            libc::SYS_linkat => (Kind::Link, task.at(fd(2), args[3])?, None),
            libc::SYS_symlinkat => (Kind::Link, task.at(fd(1), args[2])?, None),
            libc::SYS_chmod => (Kind::Mode, task.at(here, args[0])?, None),
            libc::SYS_bind => {
                // sockaddr_un: two bytes of family, then the path.
                let path = task.at(here, args[1] + 2)?;
                (Kind::Bind, path, None)
            }
            libc::SYS_mount => (Kind::Mount, task.at(here, args[1])?, None),
            libc::SYS_umount2 => (Kind::Unmount, task.at(here, args[0])?, None),
            _ => return None,
        };
        if kind == Kind::Create && args_only_open(&path, request) {
            return None;
        }
        let by_fd = matches!(kind, Kind::Write | Kind::Sync | Kind::Truncate);
        Some(Self {
            kind,
            path,
            from,
            process: task.process()?,
            fd: by_fd.then(|| task.proc().join(format!("fd/{}", fd(0)))),
        })
    }

    /// Whether a program of this name makes the call.
    pub(super) fn is_of(&self, program: &str) -> bool {
        let exe = fs::read_link(format!("/proc/{}/exe", self.process));
        exe.is_ok_and(|exe| exe.ends_with(program))
    }
}

/// The change by opening with these flags, if any.
fn changes(flags: u64) -> Option<Kind> {
    let change = (libc::O_CREAT | libc::O_TRUNC) as u64;
    (flags & change != 0).then_some(Kind::Create)
}

/// Whether the file only gets opened: it exists and is not truncated.
fn args_only_open(path: &Path, request: &libc::seccomp_notif) -> bool {
    let args = request.data.args;
    let flags = match libc::c_long::from(request.data.nr) {
        libc::SYS_open => args[1],
        _ => args[2],
    };
    flags & libc::O_TRUNC as u64 == 0 && path.exists()
}

/// A thread that waits for an answer.
struct Task(u32);

impl Task {
    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0))
    }

    fn process(&self) -> Option<u32> {
        let status = fs::read_to_string(self.proc().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        line.trim().parse().ok()
    }

    fn of_fd(&self, fd: i32) -> Option<PathBuf> {
        fs::read_link(self.proc().join(format!("fd/{fd}"))).ok()
    }

    /// A path argument, made absolute.
    fn at(&self, dir: i32, address: u64) -> Option<PathBuf> {
        let path = self.text(address)?;
        let base = match dir {
            libc::AT_FDCWD => fs::read_link(self.proc().join("cwd")).ok()?,
            fd => self.of_fd(fd)?,
        };
        Some(base.join(path))
    }

    fn text(&self, address: u64) -> Option<PathBuf> {
        let memory = File::open(self.proc().join("mem")).ok()?;
        let mut bytes = vec![0; libc::PATH_MAX as usize];
        // The memory after the path may not be mapped.
        let length = memory.read_at(&mut bytes, address).ok()?;
        let text = CStr::from_bytes_until_nul(&bytes[..length]).ok()?;
        Some(Path::new(std::ffi::OsStr::from_bytes(text.to_bytes())).to_owned())
    }
}
