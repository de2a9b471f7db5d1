//! Starting the owner of a pod: a process that outlives whoever starts it.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::Engine;
use super::home::PodHome;
use crate::error::{Context, Error, ErrorKind, Result};

/// The argument with which `rust-kata` owns a pod.
pub const OWN: &str = "own";

/// Starts `rust-kata own` for a pod: a process of its own session, with nothing
/// of ours but one pipe. It says on that when it serves, or why it does not.
pub(super) fn start_owner(engine: &Engine, home: &PodHome) -> Result<()> {
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
    // SAFETY: between fork and exec only setsid(2) is called, which is
    // async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
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
