//! rust-kata-agent: PID 1 of the guest VM.
//!
//! ```text
//! host ──ttrpc over vsock──▶ service ──▶ pod ──▶ container ──▶ process
//!                                                   │            │
//!                                       cgroup, oom ┘     stdio, reaper
//!                                                   └─▶ spawn ═▶ helper ─▶ libcontainer
//! ```
//! All work runs in one tokio thread, except that of the helpers: one process for each start of
//! a container or exec session, forked by a `zygote`.

mod blocking;
mod cgroup;
mod container;
mod error;
pub(crate) mod guest;
pub(crate) mod launch;
mod logging;
mod pod;
mod service;
mod stdio;
mod sync;
mod text;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use protos::{AGENT_PORT, agent_ttrpc};
use tokio::sync::Notify;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::cgroup::oom::Events;
use crate::container::Environment;
use crate::error::Error;
use crate::guest::reaper::Reaper;
use crate::launch::spawn::Spawner;
use crate::launch::zygote::Zygote;
use crate::pod::Pod;
use crate::service::Service;
use crate::stdio::listener::Arrivals;

/// The time that the host may take to close the connection after its last answer.
const HANG_UP_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if std::process::id() == 1 {
        pid1();
    }
    eprintln!(
        "rust-kata-agent {} is PID 1 of a rust-kata guest; it is started by the guest's kernel \
         and does nothing anywhere else.",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::FAILURE
}

/// Runs until the end of the VM.
fn pid1() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        log::error!("panic: {panic}");
        guest::power::off()
    }));
    if let Err(e) = live() {
        log::error!("fatal: {e:#}");
    }
    guest::power::off()
}

fn live() -> anyhow::Result<()> {
    let marked = guest::boot_mark::write();
    guest::init::set_up().context("set the guest up")?;
    if let Err(e) = marked {
        log::warn!("boot mark: {e}");
    }
    // SAFETY: no thread has been started yet.
    let zygote = unsafe { Zygote::start() }.context("fork the zygote")?;
    serve(zygote)
}

fn serve(zygote: Zygote) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    runtime.block_on(async {
        let reaper = Reaper::start().context("watch for children")?;
        let environment = Environment {
            spawner: Arc::new(Spawner { zygote, reaper }),
            events: Arc::new(Events::new()),
            arrivals: Arrivals::listen()?,
        };
        let destroyed = Arc::new(Notify::new());
        let service = Service {
            pod: Arc::new(Pod::new(environment)),
            destroyed: destroyed.clone(),
        };
        let host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, AGENT_PORT))
            .await
            .map_err(Error::Dial)?;
        let (listener, hung_up) = service::connection::only(host);
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(listener)
            .register_service(agent_ttrpc::create_agent(Arc::new(service)));
        server.start().await.map_err(Error::Rpc)?;
        log::info!("ready");

        // The VM has no use without the host's connection.
        tokio::pin!(hung_up);
        tokio::select! {
            _ = &mut hung_up => {}
            _ = destroyed.notified() => {
                let _ = tokio::time::timeout(HANG_UP_LIMIT, hung_up).await;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::testing::alone;

    #[test]
    fn only_pid_1_is_the_agent() {
        alone!();
        test_support::require!(test_support::root());
        let code = launch::testing::forked_well(|| {
            // Whatever it does, it may not do it to this machine.
            let nobody = nix::unistd::Uid::from_raw(65_534);
            nix::unistd::setresuid(nobody, nobody, nobody).unwrap();
            let code = format!("{:?}", main());
            assert_eq!(code, format!("{:?}", ExitCode::FAILURE));
            launch::testing::say("returned");
        });
        assert!(code.ends_with("returned"), "{code}");
    }
}
