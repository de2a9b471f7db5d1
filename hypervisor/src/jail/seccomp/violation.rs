//! The end of the process after a forbidden system call, with a log line that names the call.
//!
//! The kernel sends SIGSYS instead of making the call. A filter that kills the process would
//! not show the cause to the owner.

use std::cell::Cell;
use std::fmt::{self, Write};

use super::super::kind::ThreadKind;
use super::names;

/// 128 and the signal, as in a shell. The process cannot kill itself by a signal, since it is
/// the first of its namespace.
pub const EXIT_CODE: libc::c_int = 128 + libc::SIGSYS;

/// signal(7), `si_code` of a signal by seccomp
const SYS_SECCOMP: libc::c_int = 1;

/// `siginfo_t` of such a signal, sigaction(2).
#[repr(C)]
struct SysInfo {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    address: *const libc::c_void,
    call: libc::c_int,
    arch: libc::c_uint,
}

thread_local! {
    /// The kind of this thread.
    static KIND: Cell<Option<ThreadKind>> = const { Cell::new(None) };
}

/// Must be called by a thread before its filter is installed.
pub(super) fn set_kind(kind: ThreadKind) {
    KIND.set(Some(kind));
}

/// Installs the handler, for all threads.
pub(in super::super) fn watch() -> std::io::Result<()> {
    let handler: unsafe extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
        on_sigsys;
    // SAFETY: zero is a valid start for the struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler makes only calls that are allowed in a signal handler.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// A line on the stack: a signal handler must not allocate.
struct LineBuffer {
    text: [u8; 256],
    len: usize,
}

impl Write for LineBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// # Safety
/// The kernel must call it with `SA_SIGINFO`.
unsafe extern "C" fn on_sigsys(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes both to a handler with SA_SIGINFO; `SysInfo` is the start of a
    // `siginfo_t`, with plain numbers only.
    let (info, registers) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        (&*info.cast::<SysInfo>(), &context.uc_mcontext.gregs)
    };
    if info.code != SYS_SECCOMP {
        return;
    }
    let call = libc::c_long::from(info.call);
    let register = |index: libc::c_int| registers[index as usize];
    let mut line = LineBuffer {
        text: [0; 256],
        len: 0,
    };
    let _ = match KIND.get() {
        Some(kind) => write!(line, "seccomp: a thread of kind {kind}"),
        None => write!(line, "seccomp: a thread"),
    };
    let _ = writeln!(
        line,
        " called {} ({call}) with {:#x}, {:#x}, {:#x}",
        names::name(call),
        register(libc::REG_RDI),
        register(libc::REG_RSI),
        register(libc::REG_RDX),
    );
    // SAFETY: writes from a local array, then ends the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.text.as_ptr().cast(), line.len);
        libc::_exit(EXIT_CODE)
    }
}
