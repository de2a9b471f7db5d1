//! `rust-kata own`: the process that owns a pod of the engine, from its first
//! start until nothing of it runs. Started by the engine, with a pipe as its
//! stdout on which it says that it serves, or why not.

use std::fs;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protos::management_ttrpc::create_management;
use runtime::engine::home::PodHome;
use runtime::engine::owner::Owner;
use runtime::engine::{Engine, attachment};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::asynchronous::Server;

use super::attach;
use super::engine::Service;
use crate::error::{Context, Error, Result};
use crate::logger;

/// An owner that nobody asks for anything is of no use.
const IDLE: Duration = Duration::from_secs(60);

/// For an orderly end on SIGTERM; systemd gives ten times as much.
const SHUTDOWN: Duration = Duration::from_secs(9);

/// For the last answers to reach their clients.
const ANSWERS: Duration = Duration::from_secs(1);

/// Owns the pod until its end.
pub(crate) fn run(engine: &Engine, namespace: &str, pod: &str) -> Result<()> {
    let claimed = claim(engine, namespace, pod);
    let (owner, listeners) = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            let owned = matches!(&error, Error::Runtime(runtime::Error::AlreadyExists { .. }));
            say(if owned { "owned" } else { "" }, &error.to_string());
            return Err(error);
        }
    };
    let address = engine.owner_address(owner.home());
    logger::to_file(
        &owner.home().path().join("owner.log"),
        engine.config().debug,
    );
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("start the runtime's threads")?;
    let served = tokio.block_on(serve(&owner, listeners));
    // First the path, so that nobody connects to a server that leaves; the
    // lock, which says that there is an owner, goes last.
    let sockets = [attachment::address_of(&address), address];
    let removed = sockets
        .iter()
        .try_for_each(|path| fs::remove_file(path).on("remove", path));
    tokio.shutdown_timeout(Duration::from_secs(1));
    drop(owner);
    served.and(removed)
}

/// The sockets of an owner: for calls, and for attachments.
type Listeners = [UnixListener; 2];

fn claim(engine: &Engine, namespace: &str, pod: &str) -> Result<(Arc<Owner>, Listeners)> {
    let home = PodHome::new(&engine.config().data_root, namespace, pod)?;
    let address = engine.owner_address(&home);
    let owner = Owner::claim(engine, &home, &address.to_string_lossy())?;
    let listeners = [
        listen(&address)?,
        listen(&attachment::address_of(&address))?,
    ];
    Ok((owner, listeners))
}

/// The socket of the pod's owner. We hold its lock: one that is there is a dead
/// owner's.
fn listen(address: &Path) -> Result<UnixListener> {
    if let Some(dir) = address.parent() {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.on("create", dir)?;
    }
    match fs::remove_file(address) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).on("remove", address);
        }
        _ => {}
    }
    let listener = UnixListener::bind(address).on("listen on", address)?;
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(address, private).on("set the mode of", address)?;
    Ok(listener)
}

async fn serve(owner: &Arc<Owner>, [listener, attachments]: Listeners) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).doing("watch SIGTERM")?;
    listener.set_nonblocking(true).doing("set up the socket")?;
    // SAFETY: the descriptor is ours, a listening socket, and given away here.
    let server = unsafe { Server::new().add_unix_listener(listener.into_raw_fd()) };
    let started = |source| Error::Call {
        call: "start of the server",
        source,
    };
    let service = create_management(Arc::new(Service(owner.clone())));
    let mut server = server.map_err(started)?.register_service(service);
    server.start().await.map_err(started)?;
    attachments
        .set_nonblocking(true)
        .doing("set up the socket")?;
    let attachments = tokio::net::UnixListener::from_std(attachments).doing("use the socket")?;
    let open = Arc::new(watch::Sender::new(0));
    let attaching = tokio::spawn(attach::listen(owner.clone(), attachments, open.clone()));
    say("ready", "");
    tokio::select! {
        () = owner.ended() => {}
        () = owner.idle(IDLE) => log::info!("Nobody asked for anything"),
        _ = terminate.recv() => {
            log::info!("SIGTERM: ending the pod");
            let seconds = Some(SHUTDOWN.as_secs() as u32 / 2);
            if timeout(SHUTDOWN, owner.stop_pod(seconds)).await.is_err() {
                log::error!("The pod did not end within {} s", SHUTDOWN.as_secs());
            }
        }
    }
    attaching.abort();
    let mut attached = open.subscribe();
    if timeout(ANSWERS, attached.wait_for(|open| *open == 0))
        .await
        .is_err()
    {
        log::debug!("An attached client does not read to the end");
    }
    if timeout(ANSWERS, server.shutdown()).await.is_err() {
        log::debug!("A client still waits for an answer");
    }
    Ok(())
}

/// Says one line to who started us, and closes what it is said on.
fn say(word: &str, rest: &str) {
    let line = format!("{word} {rest}");
    let mut stdout = std::io::stdout();
    // Whoever started us may have gone.
    let _ = writeln!(stdout, "{}", line.trim());
    let _ = stdout.flush();
    if let Ok(null) = fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}
