//! `rust-kata own`: the process that owns a pod of the engine, from its first start until
//! nothing of it runs. The engine starts it with a pipe as stdout, on which it reports that it
//! serves, or why not.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use runtime::engine::Engine;
use runtime::engine::owner::Owner;
use runtime::engine::records::paths::DataPaths;
use runtime::engine::wire;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::attach;
use super::owner::services;
use super::server;
use crate::descriptors;
use crate::error::{Context, Error, Result};
use crate::logger;

/// How long an owner without requests keeps running.
const IDLE: Duration = Duration::from_secs(60);

/// The time for an orderly end on SIGTERM; systemd allows ten times as much.
const SHUTDOWN: Duration = Duration::from_secs(9);

/// The time for the last answers to reach their clients.
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
    let address = engine.owner_address(owner.paths());
    logger::to_file(
        &owner.paths().path().join("owner.log"),
        engine.config().debug,
    );
    descriptors::allow_all();
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("start the runtime's threads")?;
    let served = tokio.block_on(serve(&owner, listeners));
    // The path goes first: clients must not connect to a server that is ending. The lock, which
    // shows that there is an owner, is released last.
    let sockets = [wire::attach::address_of(&address), address];
    let removed = sockets
        .iter()
        .try_for_each(|path| fs::remove_file(path).on("remove", path));
    tokio.shutdown_timeout(Duration::from_secs(1));
    drop(owner);
    let spent = remove_if_spent(engine, namespace, pod);
    served.and(removed).and(spent)
}

/// Removes the pod if it was made for a container that has ended by itself without a waiting
/// client.
fn remove_if_spent(engine: &Engine, namespace: &str, pod: &str) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start a thread")?;
    match engine.pod(namespace, pod) {
        Ok(pod) => Ok(tokio.block_on(pod.remove_if_spent())?),
        // The caller has removed it.
        Err(_) => Ok(()),
    }
}

/// The sockets of an owner: for calls, and for attachments.
type Listeners = [UnixListener; 2];

fn claim(engine: &Engine, namespace: &str, pod: &str) -> Result<(Arc<Owner>, Listeners)> {
    let paths = DataPaths::new(&engine.config().data_root, namespace, pod)?;
    let address = engine.owner_address(&paths);
    let listen = || {
        Ok::<_, Error>([
            server::listen(&address)?,
            server::listen(&wire::attach::address_of(&address))?,
        ])
    };
    Owner::claim(engine, &paths, &address, listen)
}

async fn serve(owner: &Arc<Owner>, [listener, attachments]: Listeners) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).doing("watch SIGTERM")?;
    let mut server = server::start(listener, services(owner)).await?;
    let open = Arc::new(watch::Sender::new(0));
    let attachments = server::non_blocking(attachments)?;
    let attaching = tokio::spawn(attach::listen(owner.clone(), attachments, open.clone()));
    say("ready", "");
    tokio::select! {
        () = owner.ended() => {}
        () = owner.idle(IDLE) => log::info!("Nobody asked for anything"),
        _ = terminate.recv() => {
            log::info!("SIGTERM: ending the pod");
            let seconds = Some(SHUTDOWN.as_secs() as u32 / 2);
            if timeout(SHUTDOWN, owner.stop_pod(seconds, false)).await.is_err() {
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

/// Writes one line to the process that started this one, and closes stdout.
fn say(word: &str, rest: &str) {
    let line = format!("{word} {rest}");
    let mut stdout = std::io::stdout();
    // That process may have ended.
    let _ = writeln!(stdout, "{}", line.trim());
    let _ = stdout.flush();
    if let Ok(null) = fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}
