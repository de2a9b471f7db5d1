//! `start`: prints the address of the shim that serves a container. Starts a shim first unless
//! the container belongs to a running pod.
//!
//! containerd reads stdout and stderr as one text: the answer alone on success, one error on
//! failure.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use runtime::Config;

use crate::containerd::address::Address;
use crate::containerd::bootstrap::Bootstrap;
use crate::containerd::bundle as files;
use crate::containerd::flags::Flags;
use crate::containerd::group::Group;
use crate::containerd::publisher::TTRPC_ADDRESS;
use crate::error::{Context, Error, Result};
use crate::logger;

/// Runs the action; the bundle is the working directory.
pub fn run(mut flags: Flags) -> Result<()> {
    for (flag, value) in [("namespace", &flags.namespace), ("id", &flags.id)] {
        if value.is_empty() {
            let action = "start";
            return Err(Error::MissingFlag { action, flag });
        }
    }
    let bundle = std::env::current_dir().doing("find the working directory")?;
    // Create reads and checks the rest of the spec.
    let group = Group::of(&runtime::load_annotations(&bundle)?)?;
    let bootstrap = Bootstrap::read(&flags)?;
    bootstrap.complete(&mut flags);
    let given = bootstrap.configuration()?;
    let config = given.map(|given| files::record_config(&bundle, given));
    Config::load(config.transpose()?.as_deref())?;

    let address = Address::of(
        &bootstrap.socket_dir()?,
        &flags.address,
        &flags.namespace,
        group.pod(&flags.id),
    );
    match group {
        Group::Member(sandbox) => {
            if !address.is_live() {
                let address = address.to_string();
                return Err(Error::NoSandbox { sandbox, address });
            }
            files::write(&bundle, files::ADDRESS, address.to_string())?;
        }
        Group::Alone | Group::Sandbox => launch(&flags, &bootstrap, &bundle, &address)?,
    }
    let answer = bootstrap.answer(&address)?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&answer)
        .and_then(|()| stdout.flush())
        .doing("print the address")
}

/// Starts a server on a new socket.
fn launch(flags: &Flags, bootstrap: &Bootstrap, bundle: &Path, address: &Address) -> Result<()> {
    let Some(listener) = address.listen()? else {
        return Err(Error::Running {
            id: flags.id.clone(),
            address: address.to_string(),
        });
    };
    let started = files::write(bundle, files::ADDRESS, address.to_string())
        .map_err(Error::from)
        .and_then(|()| spawn(flags, bootstrap, bundle, &listener))
        .and_then(|mut child| {
            let recorded = files::write(bundle, files::SHIM_PID, child.id().to_string());
            recorded.map_err(Error::from).inspect_err(|_| {
                // The child has not served any client yet.
                let _ = child.kill().and_then(|()| child.wait());
            })
        });
    if started.is_err() {
        address.remove_if_dead();
    }
    started
}

/// Starts this binary again, detached from everything but the listening socket.
fn spawn(flags: &Flags, bootstrap: &Bootstrap, bundle: &Path, listener: &OwnedFd) -> Result<Child> {
    let exe = std::env::current_exe().doing("find the running binary")?;
    let output = || -> Result<Stdio> {
        let null = || File::options().write(true).open("/dev/null");
        Ok(match logger::open_fifo(bundle) {
            Some(fifo) => fifo.into(),
            None => null().on("open", "/dev/null")?.into(),
        })
    };
    let fd = listener.as_raw_fd();
    let mut command = Command::new(&exe);
    command
        .args(["-namespace", &flags.namespace, "-id", &flags.id])
        .args(["-address", &flags.address])
        .args(["-publish-binary", &flags.publish_binary])
        .args(["-listener", &fd.to_string()])
        .args(flags.debug.then_some("-debug"))
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?);
    if let Some(address) = bootstrap.ttrpc_address() {
        command.env(TTRPC_ADDRESS, address);
    }
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing
    // is allocated.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            // Closes all descriptors that containerd or a user left open.
            nix::errno::Errno::result(libc::close_range(
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
            ))?;
            let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    command.spawn().on("start", &exe)
}
