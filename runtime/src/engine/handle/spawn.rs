//! Starting the owner of a pod: a process that outlives the one that starts it.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::engine::Engine;
use crate::engine::records::paths::DataPaths;
use crate::error::{Context, Error, ErrorKind, Result};

/// The argument with which `rust-kata` owns a pod.
pub const OWN: &str = "own";

/// Starts `rust-kata own` for a pod: a process of its own session, with nothing
/// of ours but one pipe. It says on that when it serves, or why it does not.
pub(in crate::engine) fn start_owner(engine: &Engine, home: &DataPaths) -> Result<()> {
    let program = engine.config.owner_program()?;
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
    let mut command = Command::new(&program);
    if let Some(file) = engine.config_file() {
        command.arg("--config").arg(file);
    }
    command
        .args([OWN, home.namespace(), home.name()])
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
    let mut child = command.spawn().on("start", &program)?;
    // Or our own copy of its writing end keeps the pipe open.
    drop(command);
    let mut said = String::new();
    File::from(reader)
        .read_to_string(&mut said)
        .on("read what is said by", &program)?;
    if said.trim() == "ready" {
        // It outlives us; until then it is not to become a zombie.
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    let status = child.wait().on("wait for", &program)?;
    // Another one was first: that one will do.
    if said.starts_with("owned") {
        return Ok(());
    }
    Err(Error::Remote {
        kind: ErrorKind::Internal,
        message: match said.trim() {
            "" => format!("The owner of pod {} ended: {status}", home.name()),
            problem => problem.to_owned(),
        },
    })
}

/// Closes on exec what our caller has left open: an owner would keep it open for
/// as long as its pod runs.
fn keep_stdio_alone() -> std::io::Result<()> {
    const FIRST: libc::c_int = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: plain system calls, on numbers alone.
    unsafe {
        if libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) < 0 {
            // Before Linux 5.11; as far as a shell's usual limit goes.
            for number in FIRST..1024 {
                libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
    Ok(())
}
