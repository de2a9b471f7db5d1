//! Booting a pod's VM, until its agent has set up the pod.

mod request;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::text::one_line;
use protos::AGENT_PORT;
use tokio::net::UnixListener;

use self::request::{HostSize, create_pod_request, vm_spec};
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::host::cgroup::HostCgroup;
use crate::pod::Booted;
use crate::pod::console::console_tail;
use crate::pod::resize::Bounds;
use crate::pod::share::ShareTree;
use crate::pod::vm::GuestVm;
use crate::state_dir::paths::RunPaths;
use crate::state_dir::private;
use crate::state_dir::record::{self, PodConfig, PodRunState, PodRunStatus};
use crate::stdio::Streams;

/// How many bytes of the guest's version are logged.
const MAX_VERSION: usize = 128;

/// A function that is called at the end of each step of a pod's start.
pub type BootProgress = Option<Arc<dyn Fn(&str) + Send + Sync>>;

/// Boots the VM of a pod whose directory this process has claimed.
pub(crate) async fn boot(
    config: &Config,
    spec: &PodConfig,
    dir: &RunPaths,
    share: &ShareTree,
    cgroup: &mut HostCgroup,
    progress: &BootProgress,
) -> Result<Booted> {
    let step = |name: &str| {
        if let Some(report) = progress {
            report(name);
        }
    };
    // Intent: everything that is recorded here may be removed by others.
    let mut state = PodRunState {
        status: PodRunStatus::Creating,
        hypervisor: String::new(),
        processes: Vec::new(),
        reason: None,
        cgroups: cgroup.new_dirs().to_vec(),
    };
    record::save(dir, &dir.state(), &state)?;

    let sockets = dir.sockets();
    blocking(|| {
        private::make(&sockets)?;
        private::make(&dir.containers())?;
        cgroup.create(|dirs| {
            let state = PodRunState {
                cgroups: dirs.to_vec(),
                ..state.clone()
            };
            record::save(dir, &dir.state(), &state)
        })?;
        share.create()
    })?;
    state.cgroups = cgroup.new_dirs().to_vec();
    // This listens before the guest boots: the agent's call shows that it is ready.
    let agent_port = listen(dir, AGENT_PORT)?;

    let mut vm_spec = vm_spec(config, spec, dir, HostSize::read());
    vm_spec.cgroup = cgroup.birthplace().map(Path::to_owned);
    let vm_spec = vm_spec.validate()?;
    let choice = hypervisor::select(&vm_spec)?;
    step(&format!("hypervisor: {}", choice.reason));
    let bounds = Bounds::of(&vm_spec, config.memory_mib, choice.vmm.can_resize());
    let can_attach = choice.vmm.can_attach();
    let vm = choice.vmm.create(vm_spec).await?;
    state.hypervisor = choice.reason;
    state.processes = vm.processes();
    record::save(dir, &dir.state(), &state)?;
    blocking(|| state.processes.iter().for_each(|p| cgroup.add(p.pid)));
    step("VM processes started");

    let started = async {
        vm.boot().await?;
        let connection = tokio::select! {
            accepted = agent_port.accept() => accepted.on("accept the agent on", dir.vsock())?.0,
            exit = vm.wait() => {
                return Err(Error::VmGone { pod: spec.id.clone(), reason: format!("{exit}{}", console_tail(dir)) });
            }
            () = tokio::time::sleep(config.timeouts.boot) => {
                return Err(Error::AgentTimeout { call: "boot", seconds: config.timeouts.boot.as_secs() });
            }
        };
        // Found while only the agent runs in the guest.
        let streams = Streams::new(&dir.vsock())?;
        if progress.is_some() {
            step(&guest_ready(vm.boot_mark().await.ok().flatten()));
        }
        let agent = Agent::new(connection, config.timeouts);
        let info = tokio::select! {
            info = agent.create_pod(create_pod_request(spec)) => info?,
            exit = vm.wait() => {
                return Err(Error::VmGone { pod: spec.id.clone(), reason: format!("{exit}{}", console_tail(dir)) });
            }
        };
        step(&format!(
            "pod set up (guest kernel {}, agent {})",
            one_line(&info.kernel_release, MAX_VERSION),
            one_line(&info.agent_version, MAX_VERSION)
        ));
        state.status = PodRunStatus::Running;
        record::save(dir, &dir.state(), &state)?;
        Ok((agent, streams))
    };
    match started.await {
        Ok((agent, streams)) => Ok(Booted {
            guest: GuestVm::new(dir.clone(), vm, agent, can_attach, state),
            bounds,
            streams,
            cgroup: cgroup.clone(),
        }),
        Err(e) => {
            vm.kill().await;
            Err(e)
        }
    }
}

/// The name of the step at which the agent calls, with the time at which it began to run.
fn guest_ready(boot_mark: Option<Duration>) -> String {
    match boot_mark {
        Some(mark) => format!(
            "guest ready (its agent ran {} ms after the VMM's start)",
            mark.as_millis()
        ),
        None => "guest ready".into(),
    }
}

fn listen(dir: &RunPaths, port: u32) -> Result<UnixListener> {
    let path = format!("{}_{port}", dir.vsock().display());
    UnixListener::bind(&path).on("listen on", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_the_agent_is_named_in_milliseconds_if_it_is_known() {
        let mark = Duration::from_micros(1_234_567);
        assert_eq!(
            guest_ready(Some(mark)),
            "guest ready (its agent ran 1234 ms after the VMM's start)"
        );
        assert_eq!(guest_ready(None), "guest ready");
    }

    /// The agent calls at the port's own socket, which rust-kata-vmm looks for by this name.
    #[tokio::test]
    async fn the_port_of_the_agent_is_part_of_its_sockets_name() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunPaths::new(root.path(), "ns", "p").unwrap();
        let missing = listen(&dir, AGENT_PORT).unwrap_err();
        assert!(
            matches!(
                missing,
                Error::Io {
                    action: "listen on",
                    ..
                }
            ),
            "{missing:?}"
        );
        std::fs::create_dir_all(dir.sockets()).unwrap();
        let _port = listen(&dir, AGENT_PORT).unwrap();
        let socket = format!("{}_1024", dir.vsock().display());
        tokio::net::UnixStream::connect(&socket).await.unwrap();
    }
}
