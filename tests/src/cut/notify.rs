//! seccomp user notification (seccomp_unotify(2)): system calls of a thread and its children
//! wait until a listener lets them continue.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: only a fatal signal interrupts a call after its
/// notification was received (since Linux 5.19; not in the libc crate).
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
nix::ioctl_readwrite!(respond, b'!', 1, libc::seccomp_notif_resp);

/// Receives notifications of system calls.
pub(super) struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Installs a filter for these system calls on the calling thread and its children.
    pub(super) fn install(calls: &[libc::c_long]) -> io::Result<Self> {
        let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        // seccomp_data.nr is the first field.
        let mut program = vec![statement(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            0,
        )];
        for (at, call) in calls.iter().enumerate() {
            let to_the_end = (calls.len() - at) as u8;
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            program.push(statement(equal, *call as u32, to_the_end, 0));
        }
        let give = libc::BPF_RET | libc::BPF_K;
        program.push(statement(give, libc::SECCOMP_RET_ALLOW, 0, 0));
        program.push(statement(give, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: `program` has as many statements as it says; the kernel copies them. The
        // returned descriptor is new, and belongs to this function alone.
        unsafe {
            let fd = libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE,
                &raw const program,
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    /// The next call; `None` if its process has died.
    pub(super) fn receive(&self) -> Option<libc::seccomp_notif> {
        // SAFETY: zeroed, as the kernel requires, which then fills it.
        unsafe {
            let mut request: libc::seccomp_notif = std::mem::zeroed();
            receive(self.0.as_raw_fd(), &raw mut request).ok()?;
            Some(request)
        }
    }

    /// Lets a call continue. A call whose process has died is ignored.
    pub(super) fn go_on(&self, request: &libc::seccomp_notif) {
        let mut answer = libc::seccomp_notif_resp {
            id: request.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: the kernel reads `answer` only.
        let _ = unsafe { respond(self.0.as_raw_fd(), &raw mut answer) };
    }
}
