//! The last steps of a container's process, inside the container: runc's steps between entering
//! the namespaces and execve, in the same order and with the same error texts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use caps::{CapSet, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, Spec};

use crate::error::Kind;
use crate::launch::executable::{self, text};
use crate::launch::faults::{Fault, Faults};
use crate::launch::spec::Launch;

/// libcontainer calls this once a process is in its container and has its user, with all
/// capabilities still.
#[derive(Clone)]
pub struct Workload {
    launch: Launch,
    faults: Faults,
    /// Decides where the errors of `exec` go: to the helper for an exec session, which waits
    /// for them; a started init has only its stderr.
    init: bool,
    /// The program that `validate` has found.
    executable: RefCell<Option<CString>>,
}

impl Workload {
    pub fn new(launch: Launch, faults: Faults, init: bool) -> Workload {
        Workload {
            launch,
            faults,
            init,
            executable: RefCell::new(None),
        }
    }

    /// Runs before the process is reported as ready: steps that can fail with a clear reason
    /// fail here.
    fn prepare(&self) -> Result<(), Fault> {
        let process = &self.launch.process;
        own_streams(process.user().uid(), &self.launch.descriptors)?;
        if let Some(size) = process.console_size() {
            set_console_size(size.width(), size.height());
        }
        if self.launch.make_cwd {
            make_folder(process.cwd())
                .map_err(|e| Fault::internal(&format!("mkdir {}", process.cwd().display()), e))?;
        }
        nix::unistd::chdir(process.cwd()).map_err(|e| {
            Fault::invalid(format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                process.cwd(),
                text(e)
            ))
        })?;
        // A directory outside the root has no path.
        nix::unistd::getcwd().map_err(|e| {
            Fault::invalid(format!(
                "current working directory is outside of container mount namespace root: {}",
                text(e)
            ))
        })?;
        let name = process.args().iter().flatten().next();
        let name = name.ok_or_else(|| Fault::invalid("process.args is empty"))?;
        let found = self.unprivileged(|| executable::find(name, &self.environment()))?;
        self.executable.replace(Some(found?));
        Ok(())
    }

    /// Runs `work` without capabilities that the process will not have.
    fn unprivileged<T>(&self, work: impl FnOnce() -> T) -> Result<T, Fault> {
        let sets = complete(self.launch.process.capabilities().clone());
        let wanted = sets.effective().iter().flatten();
        let wanted: CapsHashSet = wanted.map(|capability| capability.to_cap()).collect();
        let permitted = caps::read(None, CapSet::Permitted)
            .map_err(|e| Fault::internal("read capabilities", e))?;
        let set = |effective: &CapsHashSet| {
            caps::set(None, CapSet::Effective, effective)
                .map_err(|e| Fault::internal("set capabilities", e))
        };
        set(&(&wanted & &permitted))?;
        let done = work();
        set(&permitted)?;
        Ok(done)
    }

    /// The environment in the spec's order; the last of repeated values counts.
    fn environment(&self) -> Vec<(String, String)> {
        self.environment_with(|| read_passwd(Path::new("/etc/passwd")))
    }

    fn environment_with(&self, passwd: impl FnOnce() -> String) -> Vec<(String, String)> {
        let process = &self.launch.process;
        let mut environment: Vec<(String, String)> = Vec::new();
        for entry in process.env().iter().flatten() {
            let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty())
            else {
                continue;
            };
            match environment.iter_mut().find(|(k, _)| k == key) {
                Some((_, old)) => *old = value.to_owned(),
                None => environment.push((key.to_owned(), value.to_owned())),
            }
        }
        let has_home = environment
            .iter()
            .any(|(key, value)| key == "HOME" && !value.is_empty());
        if !has_home {
            environment.retain(|(key, _)| key != "HOME");
            environment.push(("HOME".into(), home(&passwd(), process.user().uid())));
        }
        environment
    }

    /// The steps after the start: limits, privileges, filter, exec. Returns on failure only.
    fn launch(&self) -> Fault {
        let process = &self.launch.process;
        let environment: Vec<CString> = self
            .environment()
            .into_iter()
            .filter_map(|(key, value)| CString::new(format!("{key}={value}")).ok())
            .collect();
        let args: Vec<CString> = process
            .args()
            .iter()
            .flatten()
            .filter_map(|arg| CString::new(arg.as_bytes()).ok())
            .collect();
        let executable = self.executable.take().unwrap_or_default();

        let ready = keep_open(&self.launch.descriptors).and_then(|()| self.restrict());
        if let Err(fault) = ready {
            return fault;
        }
        reset_signals();
        let Err(errno) = nix::unistd::execve(&executable, &args, &environment);
        Fault {
            kind: Kind::NotExecutable,
            message: format!("exec {}: {}", executable.to_string_lossy(), text(errno)),
        }
    }

    fn restrict(&self) -> Result<(), Fault> {
        let process = &self.launch.process;
        for limit in process.rlimits().iter().flatten() {
            set_limit(limit).map_err(|e| Fault::internal(&format!("set {}", limit.typ()), e))?;
        }
        // Without no_new_privs the filter needs privileges; with it, it is loaded as late as
        // possible.
        let no_new_privs = process.no_new_privileges() == Some(true);
        let load = |wanted: bool| match &self.launch.seccomp {
            Some(filter) if wanted => filter
                .load()
                .map_err(|e| Fault::internal("load the seccomp filter", e)),
            _ => Ok(()),
        };
        load(!no_new_privs)?;
        let capabilities = complete(process.capabilities().clone());
        libcontainer::capabilities::drop_privileges(&capabilities, create_syscall().as_ref())
            .map_err(|e| Fault::internal("set capabilities", format!("{e:?}")))?;
        load(no_new_privs)
    }
}

impl Executor for Workload {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare().map_err(|fault| {
            let message = fault.message.clone();
            self.faults.report(fault);
            ExecutorValidationError::ArgValidationError(message)
        })
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is passed to execve unchanged, in its order.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let fault = self.launch();
        if self.init {
            eprintln!("{}", fault.message);
            // SAFETY: ends the process; none of its memory is used any more.
            unsafe { libc::_exit(1) }
        }
        let message = fault.message.clone();
        self.faults.report(fault);
        Err(ExecutorError::Other(message))
    }
}

/// Resets every signal to its default: the Rust runtime ignores SIGPIPE, and glibc's
/// posix_spawn ignores internal signals, which glibc's own functions cannot set.
fn reset_signals() {
    const SET_SIZE: usize = 8;
    // struct kernel_sigaction: handler (SIG_DFL), flags, restorer, mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the action lives through the call; the kernel refuses it for SIGKILL and
        // SIGSTOP, which does no harm.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET_SIZE,
            )
        };
    }
    let none = nix::sys::signal::SigSet::empty();
    // An empty set is always valid.
    let _ = none.thread_set_mask();
}

/// Keeps descriptors open through exec; libcontainer marks all of them as close-on-exec.
fn keep_open(descriptors: &[u32]) -> Result<(), Fault> {
    for number in descriptors {
        // SAFETY: a plain system call; a descriptor that is not open gives an error.
        if unsafe { libc::fcntl(*number as RawFd, libc::F_SETFD, 0) } < 0 {
            let what = format!("keep descriptor {number} open");
            return Err(Fault::internal(&what, io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Lets the user reopen its streams by path (/dev/stdout, /dev/fd/3).
fn own_streams(uid: u32, descriptors: &[u32]) -> Result<(), Fault> {
    let null = fs::metadata("/dev/null").map(|m| m.rdev()).ok();
    for fd in (0..3).chain(descriptors.iter().copied()) {
        // SAFETY: they are open: libcontainer has checked 0 to 2, and the helper has made the
        // others.
        let fd = unsafe { BorrowedFd::borrow_raw(fd as RawFd) };
        let Ok(stat) = nix::sys::stat::fstat(fd) else {
            continue;
        };
        if stat.st_uid == uid || Some(stat.st_rdev) == null {
            continue;
        }
        match nix::unistd::fchown(fd, Some(uid.into()), None) {
            // As with runc: some files cannot change their owner.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            Err(e) => return Err(Fault::internal("chown of a stream", text(e))),
        }
    }
    Ok(())
}

fn set_console_size(width: u64, height: u64) {
    let size = libc::winsize {
        ws_row: height as u16,
        ws_col: width as u16,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the size lives through the call; files that are not terminals refuse the call.
    unsafe { libc::ioctl(0, libc::TIOCSWINSZ, &size) };
}

/// Makes a directory and its parents, owned by root.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    chown(path, Some(0), Some(0))
}

/// The most that is read of a passwd file: some ten thousand users.
const MAX_PASSWD: u64 = 1 << 20;

/// The container's passwd file, which the image may have made anything: only a file is read, and
/// of a long one the beginning.
fn read_passwd(path: &Path) -> String {
    let mut text = Vec::new();
    // A FIFO would wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path);
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|meta| meta.is_file())
    {
        // What cannot be read is as if it were not there.
        let _ = file.take(MAX_PASSWD).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The home of a user in the container's passwd file.
fn home(passwd: &str, uid: u32) -> String {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let id: u32 = fields.nth(2)?.parse().ok()?;
            (id == uid).then(|| fields.nth(2))?
        })
        .find(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned()
}

/// A set that is not given is an empty set.
fn complete(capabilities: Option<LinuxCapabilities>) -> LinuxCapabilities {
    let mut all = capabilities.unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        none.set_bounding(None);
        none.set_effective(None);
        none.set_permitted(None);
        none.set_inheritable(None);
        none.set_ambient(None);
        none
    });
    let or_empty = |set: &Option<Capabilities>| Some(set.clone().unwrap_or_default());
    all.set_bounding(or_empty(all.bounding()));
    all.set_effective(or_empty(all.effective()));
    all.set_permitted(or_empty(all.permitted()));
    all.set_inheritable(or_empty(all.inheritable()));
    all.set_ambient(or_empty(all.ambient()));
    all
}

fn set_limit(limit: &PosixRlimit) -> io::Result<()> {
    use PosixRlimitType::*;
    let resource = match limit.typ() {
        RlimitCpu => libc::RLIMIT_CPU,
        RlimitFsize => libc::RLIMIT_FSIZE,
        RlimitData => libc::RLIMIT_DATA,
        RlimitStack => libc::RLIMIT_STACK,
        RlimitCore => libc::RLIMIT_CORE,
        RlimitRss => libc::RLIMIT_RSS,
        RlimitNproc => libc::RLIMIT_NPROC,
        RlimitNofile => libc::RLIMIT_NOFILE,
        RlimitMemlock => libc::RLIMIT_MEMLOCK,
        RlimitAs => libc::RLIMIT_AS,
        RlimitLocks => libc::RLIMIT_LOCKS,
        RlimitSigpending => libc::RLIMIT_SIGPENDING,
        RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        RlimitNice => libc::RLIMIT_NICE,
        RlimitRtprio => libc::RLIMIT_RTPRIO,
        RlimitRttime => libc::RLIMIT_RTTIME,
    };
    let value = libc::rlimit {
        rlim_cur: limit.soft(),
        rlim_max: limit.hard(),
    };
    // SAFETY: the value lives through the call.
    match unsafe { libc::setrlimit(resource, &value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
