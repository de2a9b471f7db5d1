//! Starting the owner of a pod, a process that outlives its starter.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::engine::Engine;
use crate::engine::records::paths::DataPaths;
use crate::error::{Context, Error, ErrorKind, OwnerError, Result};

/// The argument that makes `rust-kata` own a pod.
pub const OWN: &str = "own";

/// Starts `rust-kata own` for a pod, in a session of its own. It inherits only one pipe, on
/// which it reports that it serves or why it does not.
pub(in crate::engine) fn start_owner(engine: &Engine, paths: &DataPaths) -> Result<()> {
    start_owner_by(&engine.config.owner_program()?, engine, paths)
}

/// As [`start_owner`], by this program.
pub(super) fn start_owner_by(program: &Path, engine: &Engine, paths: &DataPaths) -> Result<()> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
    let mut command = Command::new(program);
    if let Some(file) = engine.config_file() {
        command.arg("--config").arg(file);
    }
    command
        .args([OWN, paths.namespace(), paths.name()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only setsid(2) and close_range(2) are
    // called, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            keep_stdio_alone()
        });
    }
    let mut child = command.spawn().on("start", program)?;
    // This drops our copy of the pipe's writing end, which would keep the pipe open.
    drop(command);
    let mut said = String::new();
    File::from(reader)
        .read_to_string(&mut said)
        .on("read what is said by", program)?;
    if said.trim() == "ready" {
        // The owner outlives this process; until then it must not become a zombie.
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    let status = child.wait().on("wait for", program)?;
    // Another owner was first and serves the pod.
    if said.starts_with("owned") {
        return Ok(());
    }
    Err(match said.trim() {
        "" => OwnerError::Exited {
            pod: paths.name().to_owned(),
            status,
        }
        .into(),
        problem => Error::Remote {
            kind: ErrorKind::Internal,
            message: problem.to_owned(),
        },
    })
}

/// Marks descriptors that the caller has left open as close-on-exec: an owner would keep them
/// open as long as its pod runs.
fn keep_stdio_alone() -> std::io::Result<()> {
    const FIRST: libc::c_int = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: plain system calls, on numbers alone.
    unsafe {
        if libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) < 0 {
            // Before Linux 5.11: up to a shell's usual limit.
            for number in FIRST..1024 {
                libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
    Ok(())
}
