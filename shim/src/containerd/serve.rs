//! The server: one process for each pod, from `start` to Shutdown.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use runtime::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Server;

use crate::containerd::address::Address;
use crate::containerd::bundle as files;
use crate::containerd::flags::Flags;
use crate::containerd::owner::{PodOwner, Settings};
use crate::containerd::publisher::{TTRPC_ADDRESS, Target};
use crate::containerd::task::TaskService;
use crate::descriptors;
use crate::error::{Context, Error, Result};
use crate::logger;
use crate::reap::reap;

/// The interval at which the shim checks for containers. After two checks without one it ends:
/// its containerd died before it created one, or before it could call Shutdown.
const IDLE: Duration = Duration::from_secs(120);

/// The time for an orderly end on SIGTERM; systemd allows ten times as much.
const SHUTDOWN: Duration = Duration::from_secs(9);

/// The time for the last answers to reach their clients.
const ANSWERS: Duration = Duration::from_secs(1);

/// Serves until the pod has ended.
pub fn run(flags: &Flags) -> Result<()> {
    let listener = inherited_listener(&flags.listener)?;
    let bundle = std::env::current_dir().doing("find the working directory")?;
    logger::to_fifo(&bundle, &flags.namespace, &flags.id, flags.debug);
    stand_behind_containerd();
    descriptors::allow_all();
    // `start` has a server only for a pod's first container, whose id is the pod's.
    let pod = flags.id.clone();
    let address = files::address(&bundle, &flags.address, &flags.namespace, &pod);
    let config = files::recorded_config_path(&bundle);
    let owner = PodOwner::new(Settings {
        namespace: flags.namespace.clone(),
        pod: pod.clone(),
        address: address.to_string(),
        config: config.clone(),
        target: Target::new(
            std::env::var(TTRPC_ADDRESS).ok().as_deref(),
            &flags.publish_binary,
            &flags.address,
        ),
    });

    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("start the runtime's threads")?;
    let served = tokio.block_on(serve(listener, &owner, &address));
    drop(owner);
    tokio.shutdown_timeout(Duration::from_secs(1));
    // A pod that ended in order has left nothing; then nothing happens here.
    let left = Config::load(config.as_deref())
        .map_err(Error::from)
        .and_then(|config| reap(config, &flags.namespace, &pod));
    if let Err(error) = left {
        log::error!("Something may be left of the pod: {error}");
    }
    log::info!("Ends");
    served
}

async fn serve(listener: OwnedFd, owner: &Arc<PodOwner>, address: &Address) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).doing("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).doing("watch SIGINT")?;
    // SAFETY: the descriptor is owned here, was checked to be a listening socket, and is given
    // away.
    let server = unsafe { Server::new().add_unix_listener(listener.into_raw_fd()) };
    let started = |source| Error::Call {
        call: "start of the server",
        source,
    };
    let mut server = server
        .map_err(started)?
        .register_service(TaskService::services(owner.clone()));
    server.start().await.map_err(started)?;
    log::info!("Serves at {address}");

    tokio::select! {
        () = owner.ended() => {}
        () = idle(owner) => {
            log::warn!("There is no container, and nobody creates one: leaving");
            orderly_end(owner, "No container").await;
        }
        _ = terminate.recv() => orderly_end(owner, "SIGTERM").await,
        _ = interrupt.recv() => orderly_end(owner, "SIGINT").await,
    }
    // The path goes first: clients must not connect to a server that is ending.
    if let Err(error) = address.remove() {
        log::warn!("{error}");
    }
    if timeout(ANSWERS, server.shutdown()).await.is_err() {
        log::debug!("A client still waits for an answer");
    }
    owner.finish_events().await;
    Ok(())
}

async fn idle(owner: &PodOwner) {
    let mut before = false;
    loop {
        sleep(IDLE).await;
        let idle = owner.is_idle();
        if idle && before {
            return;
        }
        before = idle;
    }
}

async fn orderly_end(owner: &PodOwner, cause: &str) {
    log::info!("{cause}: ending the pod");
    match timeout(SHUTDOWN, owner.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("The pod did not end well: {error}"),
        Err(_) => log::error!("The pod did not end within {} s", SHUTDOWN.as_secs()),
    }
}

/// Takes over the socket that `start` opened.
fn inherited_listener(number: &str) -> Result<OwnedFd> {
    let fd: RawFd = number.parse().map_err(|_| Error::NoListener)?;
    if fd <= 2 {
        return Err(Error::NoListener);
    }
    // SAFETY: the descriptor is only queried; a closed or foreign one gives an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match getsockopt(&borrowed, sockopt::AcceptConn) {
        // SAFETY: `start` left this descriptor open for this process alone.
        Ok(true) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::NoListener),
    }
}

/// Makes the OOM killer prefer the shim to containerd: its score is one step above the
/// parent's. Raising the score needs no privilege.
fn stand_behind_containerd() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let moved = std::fs::read_to_string(PATH).and_then(|text| {
        let score: i32 = text.trim().parse().unwrap_or(1000);
        std::fs::write(PATH, (score + 1).min(1000).to_string())
    });
    if let Err(error) = moved {
        log::debug!("Cannot set {PATH}: {error}");
    }
}
