//! The helper processes: each starts one container or exec session. They are single-threaded,
//! because libcontainer forks (see `zygote`).
//!
//! ```text
//! agent ── control ──▶ helper ──fork──▶ intermediate ──fork──▶ process
//!                                                 (a child of the helper)
//! ```
//! The control socket carries one message with the request and the process's descriptors with
//! their numbers, and one message with the answer. The helper ends when the agent confirms that
//! it watches the new process, which then becomes a child of PID 1.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::{Container, ContainerStatus, State};
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg, sendmsg,
};
use oci_spec::runtime::{Hook, Spec};
use protos::MAX_DESCRIPTORS;
use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::launch::faults::{self, Fault, Faults};
use crate::launch::spec::Launch;
use crate::launch::workload::Workload;

use crate::stdio::stream::duplicate_high;

/// The longest message on the control socket.
pub const MESSAGE: usize = 64 << 10;

/// The files in a request's directory.
pub const SPEC_FILE: &str = "config.json";
pub const PROCESS_FILE: &str = "process.json";
pub const LAUNCH_FILE: &str = "launch.json";
const CONSOLE_SOCKET: &str = "console.sock";

/// A request to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Creates a container from the bundle `folder`. Its init then waits for the start.
    Create {
        id: String,
        folder: PathBuf,
        state: PathBuf,
        terminal: bool,
    },
    /// Runs the process in `folder` in a container.
    Exec {
        id: String,
        folder: PathBuf,
        state: PathBuf,
        terminal: bool,
    },
    /// Runs the hooks of a container that has been started or has stopped.
    Hooks {
        id: String,
        state: PathBuf,
        hooks: Vec<Hook>,
    },
}

impl Request {
    pub fn verb(&self) -> &'static str {
        match self {
            Request::Create { .. } => "create",
            Request::Exec { .. } => "exec",
            Request::Hooks { .. } => "hooks",
        }
    }
}

/// The answer of a helper; with `terminal`, the pty master is attached.
pub type Answer = Result<Done, Fault>;

#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The pid of the new process; 0 without a process.
    pub pid: i32,
}

/// The directory of libcontainer's state of a container.
pub fn state_folder(state: &Path, id: &str) -> PathBuf {
    state.join(id)
}

/// Serves one request from `control`, then ends.
pub fn main(control: OwnedFd) -> ! {
    let _ = nix::sys::prctl::set_name(c"rust-kata-help");
    let aside = duplicate_high(&control);
    let aside = aside.unwrap_or_else(|e| answer(&control, Err(internal(e)), None));
    drop(control);
    let control = aside;
    let request = match receive(&control) {
        Ok(request) => request,
        Err(e) => answer(&control, Err(internal(e)), None),
    };
    let (faults, collected) = match faults::collect() {
        Ok(both) => both,
        Err(e) => answer(&control, Err(internal(e)), None),
    };
    report_panics(faults.clone(), control.as_raw_fd());
    match serve(&request, &faults) {
        Ok((pid, master)) => answer(&control, Ok(Done { pid }), master),
        Err(fault) => answer(&control, Err(collected.explain(fault)), None),
    }
}

fn serve(request: &Request, faults: &Faults) -> Result<(i32, Option<OwnedFd>), Fault> {
    match request {
        Request::Create {
            id,
            folder,
            state,
            terminal,
        } => {
            let workload = workload(folder, faults, true)?;
            let console = ConsoleSocket::listen(folder, *terminal)?;
            let container = builder(id, state, workload, &console)?
                .as_init(folder)
                .with_systemd(false)
                .with_detach(true)
                .build()
                .map_err(fault)?;
            let pid = container.pid().map_or(0, |pid| pid.as_raw());
            Ok((pid, console.map(ConsoleSocket::accept).transpose()?))
        }
        Request::Exec {
            id,
            folder,
            state,
            terminal,
        } => {
            let workload = workload(folder, faults, false)?;
            copy_state(state, id, folder)?;
            let console = ConsoleSocket::listen(folder, *terminal)?;
            let pid = builder(id, folder, workload, &console)?
                .as_tenant()
                .with_process(Some(folder.join(PROCESS_FILE)))
                .with_detach(true)
                .build()
                .map_err(fault)?;
            Ok((
                pid.as_raw(),
                console.map(ConsoleSocket::accept).transpose()?,
            ))
        }
        Request::Hooks { id, state, hooks } => {
            let state = State::load(&state_folder(state, id)).map_err(internal)?;
            libcontainer::hooks::run_hooks(Some(hooks), Some(&state), None, None, None)
                .map_err(internal)?;
            Ok((0, None))
        }
    }
}

fn workload(folder: &Path, faults: &Faults, init: bool) -> Result<Workload, Fault> {
    let launch = fs::read(folder.join(LAUNCH_FILE)).map_err(internal)?;
    let launch: Launch = serde_json::from_slice(&launch).map_err(internal)?;
    Ok(Workload::new(launch, faults.clone(), init))
}

fn builder(
    id: &str,
    state: &Path,
    workload: Workload,
    console: &Option<ConsoleSocket>,
) -> Result<ContainerBuilder, Fault> {
    ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_console_socket(console.as_ref().map(|console| console.path.clone()))
        .with_executor(workload)
        .with_root_path(state)
        .map_err(fault)
}

/// libcontainer leaves sockets in the state directory that it uses for an exec, and requires a
/// running container. So each exec works on a copy.
fn copy_state(state: &Path, id: &str, folder: &Path) -> Result<(), Fault> {
    let mut container = Container::load(state_folder(state, id)).map_err(fault)?;
    let copy = state_folder(folder, id);
    fs::create_dir_all(&copy).map_err(internal)?;
    container.root = copy;
    container.set_status(ContainerStatus::Running);
    container.save().map_err(fault)
}

fn internal(error: impl std::error::Error) -> Fault {
    Fault {
        kind: Kind::Internal,
        message: chain(&error),
    }
}

fn fault(error: LibcontainerError) -> Fault {
    let kind = match &error {
        LibcontainerError::InvalidSpec(_)
        | LibcontainerError::MissingSpec(_)
        | LibcontainerError::InvalidID(_)
        | LibcontainerError::Spec(_) => Kind::InvalidArgument,
        LibcontainerError::IncorrectStatus(_) => Kind::FailedPrecondition,
        _ => Kind::Internal,
    };
    Fault {
        kind,
        message: chain(&error),
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The socket through which libcontainer passes the pty master.
struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    fn listen(folder: &Path, terminal: bool) -> Result<Option<ConsoleSocket>, Fault> {
        if !terminal {
            return Ok(None);
        }
        // A path can be longer than the address of a socket.
        std::env::set_current_dir(folder).map_err(internal)?;
        let listener = UnixListener::bind(CONSOLE_SOCKET).map_err(internal)?;
        std::env::set_current_dir("/").map_err(internal)?;
        Ok(Some(ConsoleSocket {
            path: folder.join(CONSOLE_SOCKET),
            listener,
        }))
    }

    /// Receives the master, which has been sent by now.
    fn accept(self) -> Result<OwnedFd, Fault> {
        let receive = || -> io::Result<OwnedFd> {
            let (stream, _) = self.listener.accept()?;
            let mut name = [0; 64];
            let (_, mut fds) = receive_with_fds(stream.as_raw_fd(), &mut name)?;
            fds.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        let master = receive();
        let _ = fs::remove_file(&self.path);
        master.map_err(internal)
    }
}

/// Receives one message and its descriptors.
pub fn receive_with_fds(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!([RawFd; 3 + MAX_DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket, &mut iov, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just opened them for us.
            fds.extend(
                received
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok((message.bytes, fds))
}

/// Sends one message with descriptors.
pub fn send_with_fds(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Receives the request, and moves the process's descriptors to their numbers.
fn receive(control: &OwnedFd) -> io::Result<Request> {
    let mut buffer = vec![0; MESSAGE];
    let (n, given) = receive_with_fds(control.as_raw_fd(), &mut buffer)?;
    let (request, numbers): (Request, Vec<RawFd>) = serde_json::from_slice(&buffer[..n])?;
    if given.len() != numbers.len() {
        let problem = format!("{} of {} descriptors came", given.len(), numbers.len());
        return Err(io::Error::other(problem));
    }
    // First move all descriptors to high numbers, so that none overwrites another one.
    let aside = given.iter().map(duplicate_high);
    let aside = aside.collect::<io::Result<Vec<OwnedFd>>>()?;
    drop(given);
    for (number, fd) in numbers.into_iter().zip(&aside) {
        // Hooks get the stdio. The other descriptors are for the process alone; its last step
        // but one keeps them open (`workload`).
        let flags = if number > 2 { libc::O_CLOEXEC } else { 0 };
        // SAFETY: 0 to 2 are PID 1's console. Other numbers in the range are unused: the
        // control socket and the log have higher ones.
        if unsafe { libc::dup3(fd.as_raw_fd(), number, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(request)
}

/// Answers, waits until the new process is watched, and ends.
fn answer(control: &OwnedFd, answer: Answer, master: Option<OwnedFd>) -> ! {
    let socket = control.as_raw_fd();
    let fds: Vec<RawFd> = master.iter().map(AsRawFd::as_raw_fd).collect();
    let sent = serde_json::to_vec(&answer)
        .map_err(io::Error::from)
        .and_then(|json| send_with_fds(socket, &json, &fds));
    if sent.is_ok() {
        // Any message confirms it, and so does the end of the socket.
        let _ = recv(socket, &mut [0; 1], MsgFlags::empty());
    }
    // SAFETY: ends the process; it has nothing to flush or drop.
    unsafe { libc::_exit(0) }
}

/// Reports a panic as an error, so that the helper does not end without an answer.
fn report_panics(faults: Faults, control: RawFd) {
    let helper = std::process::id();
    std::panic::set_hook(Box::new(move |panic| {
        let message = format!("panic: {panic}");
        let fault = Fault {
            kind: Kind::Internal,
            message,
        };
        faults.report(fault.clone());
        if std::process::id() == helper {
            let answer: Answer = Err(fault);
            if let Ok(json) = serde_json::to_vec(&answer) {
                let _ = send_with_fds(control, &json, &[]);
            }
        }
    }));
}

/// The hooks of a spec that libcontainer's builders do not run.
pub fn late_hooks(spec: &Spec) -> (Vec<Hook>, Vec<Hook>) {
    let hooks = spec.hooks().clone().unwrap_or_default();
    (
        hooks.poststart().clone().unwrap_or_default(),
        hooks.poststop().clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
