//! Pods that outlive this process, by the engine: `pods RUST_KATA ROOTFS`, as root.
//!
//! RUST_KATA is the program `rust-kata` of an installed or built tree, which owns the pod while
//! it is started; ROOTFS is the directory of a root file system with `/bin/sleep`. Runs a pod of
//! two containers, one of which depends on the other, prints what it sees and does, and removes
//! the pod. `docs/embedding.md` explains the calls.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxMemory, LinuxResources, Process, Spec};
use runtime::Config;
use runtime::engine::handle::attach::{ClientStreams, ProcessOutput};
use runtime::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use runtime::engine::records::exec::ExecRequest;
use runtime::engine::status::{ContainerStatus, Outcome};
use runtime::engine::{Engine, NAMESPACE, PodHandle, RemoveOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [rust_kata, rootfs] = &args[..] else {
        return Err("usage: pods RUST_KATA ROOTFS".into());
    };
    let config = Config {
        rust_kata: Some(std::fs::canonicalize(rust_kata)?),
        ..Config::load(None)?
    };
    let engine = Engine::new(config, None)?;
    let rootfs = std::fs::canonicalize(rootfs)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    tokio.block_on(pods(&engine, &rootfs))
}

/// A container that sleeps.
fn sleeper(name: &str, rootfs: &Path) -> ContainerDefinition {
    let mut process = Process::default();
    process.set_args(Some(vec!["sleep".into(), "3600".into()]));
    process.set_terminal(None);
    let mut spec = Spec::default();
    spec.set_process(Some(process));
    ContainerDefinition::new(name, Rootfs::Directory(rootfs.to_owned()), spec)
}

async fn pods(engine: &Engine, rootfs: &Path) -> Result<()> {
    let mut definition = PodDefinition::new(NAMESPACE, "example");
    definition.labels.insert("of".into(), "the example".into());
    let mut web = sleeper("web", rootfs);
    web.depends_on.insert("db".into());
    let containers = [web, sleeper("db", rootfs)];

    // All containers run when this returns, or there is no pod.
    let pod = engine.run_pod(definition, &containers).await?;
    let worked = work(&pod).await;
    // Removed in any case; an error of the work comes first.
    let removed = pod.remove(RemoveOptions::FORCE).await;
    worked?;
    all_done(removed?)?;
    println!("removed");
    Ok(())
}

async fn work(pod: &PodHandle) -> Result<()> {
    let web = ["web".to_owned()];
    let view = pod.view()?;
    println!("{} is {}", pod.name(), view.status());
    println!("order: {}", view.graph().order().join(" "));

    println!(
        "web says {:?}",
        exec(pod, "web", "echo hello; exit 3").await?
    );
    for process in pod.processes("db").await? {
        println!("db runs {}", process.command);
    }

    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 << 20));
    let mut limits = LinuxResources::default();
    limits.set_memory(Some(memory));
    pod.update("db", &limits).await?;
    let usage = pod.usage().await?;
    println!("{} containers use the VM", usage.containers.len());

    all_done(pod.pause(&web).await?)?;
    println!("web is {}", status(pod, "web")?);
    all_done(pod.unpause(&web).await?)?;
    // SIGKILL: the init of a container ignores other signals that it does not handle.
    all_done(pod.kill(&web, 9, false).await?)?;
    println!("web ended with {}", pod.wait("web").await?);
    all_done(pod.start(&web, true).await?)?;
    all_done(pod.restart(&["db".to_owned()], Some(0)).await?)?;
    let running = [ContainerStatus::Running];
    let interval = Duration::from_secs(1);
    println!(
        "db is {}",
        pod.wait_for("db", &running, interval).await?.status
    );
    all_done(pod.stop(&[], Some(0)).await?)?;
    println!("{} is {}", pod.name(), pod.view()?.status());
    Ok(())
}

/// Runs a script in a container; returns its output and its exit code.
async fn exec(pod: &PodHandle, container: &str, script: &str) -> Result<(String, u32)> {
    let request = ExecRequest {
        command: ["sh", "-c", script].map(str::to_owned).into(),
        ..ExecRequest::default()
    };
    let streams = ClientStreams {
        stdin: false,
        ..ClientStreams::ALL
    };
    let mut attached = pod.exec(container, &request, streams).await?;
    let mut said = Vec::new();
    loop {
        match attached.output.next().await? {
            ProcessOutput::Stdout(data) | ProcessOutput::Stderr(data) => said.extend(data),
            ProcessOutput::Exited(code) => {
                return Ok((String::from_utf8_lossy(&said).into_owned(), code));
            }
        }
    }
}

fn status(pod: &PodHandle, container: &str) -> Result<ContainerStatus> {
    Ok(pod.view()?.container(container)?.state.status)
}

/// The first error of an operation on several containers.
fn all_done(outcome: Outcome) -> Result<()> {
    match outcome.errors.into_iter().next() {
        Some((container, error)) => Err(format!("{container}: {error}").into()),
        None => Ok(()),
    }
}
