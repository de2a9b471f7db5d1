//! A pod, made by the library alone: `embed TREE ROOTFS [COMMAND ARG...]`, as root.
//!
//! TREE is the output of `make build` (`target/dist`), ROOTFS the directory of a root file
//! system with `/bin/sleep`. Boots a VM, creates and starts a container in it, runs COMMAND
//! (`uname -a` by default) in the container on this process's stdout and stderr, and removes
//! everything. Exits with the command's code. `docs/embedding.md` explains the calls.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use oci_spec::runtime::{Process, Spec};
use runtime::container::pid_proxy;
use runtime::{Config, ContainerConfig, Endpoint, Pod, PodConfig, ProcessIo, Runtime};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A namespace of its own: no other program looks for pods in it.
const NAMESPACE: &str = "embed";
const CONTAINER: &str = "main";
const EXEC: &str = "command";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    // The library starts this binary again as the pid proxy of each process.
    if args.peek().is_some_and(|word| word == pid_proxy::ARGUMENT) {
        pid_proxy::main();
    }
    match run(&args.collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &[String]) -> Result<u8> {
    let [tree, rootfs, command @ ..] = args else {
        return Err("usage: embed TREE ROOTFS [COMMAND ARG...]".into());
    };
    let config = config(&fs::canonicalize(tree)?)?;
    let bundle = tempfile::tempdir()?;
    let spec = write_bundle(bundle.path(), &fs::canonicalize(rootfs)?)?;
    let command = match command {
        [] => vec!["uname".to_owned(), "-a".to_owned()],
        words => words.to_vec(),
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    tokio.block_on(own_pod(config, spec, bundle.path(), command))
}

/// The default configuration, with the programs and the guest of `tree`.
fn config(tree: &Path) -> Result<Config> {
    let share = tree.join("share/rust-kata");
    Ok(Config {
        kernel: share.join("vmlinux"),
        initrd: share.join("initrd.img"),
        vmm: Some(tree.join("bin/rust-kata-vmm")),
        ..Config::load(None)?
    })
}

/// An OCI bundle: `config.json` of a container that sleeps, with a root file system.
fn write_bundle(bundle: &Path, rootfs: &Path) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(rootfs.to_owned());
    spec.set_root(Some(root));
    spec.set_hostname(Some("embed".into()));
    spec.set_process(Some(process(&["sleep".into(), "3600".into()])));
    fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
    Ok(spec)
}

fn process(words: &[String]) -> Process {
    let mut process = Process::default();
    process.set_args(Some(words.to_vec()));
    process.set_terminal(Some(false));
    process.set_cwd(PathBuf::from("/"));
    process
}

async fn own_pod(config: Config, spec: Spec, bundle: &Path, command: Vec<String>) -> Result<u8> {
    let runtime = Runtime::new(config)?;
    let id = format!("embed-{}", std::process::id());
    let pod = PodConfig::from_spec(NAMESPACE, &id, "", &spec);
    // Boots the VM. This process owns the pod: the VM ends with it.
    let (pod, _events) = runtime.create_pod(pod, None).await?;
    let code = in_pod(&pod, spec, bundle, command).await;
    // Kills what still runs, ends the VM and removes the pod's directory, mounts and cgroups.
    let ended = pod.shutdown().await;
    let code = code?;
    ended?;
    Ok(code)
}

async fn in_pod(pod: &Arc<Pod>, spec: Spec, bundle: &Path, command: Vec<String>) -> Result<u8> {
    pod.create_container(ContainerConfig {
        id: CONTAINER.to_owned(),
        spec,
        bundle: bundle.to_owned(),
        rootfs: Vec::new(),
        io: ProcessIo::default(),
        sandbox: true,
    })
    .await?;
    pod.start(CONTAINER).await?;

    let io = ProcessIo {
        stdout: Endpoint::Fd(std::io::stdout().as_fd().try_clone_to_owned()?),
        stderr: Endpoint::Fd(std::io::stderr().as_fd().try_clone_to_owned()?),
        ..ProcessIo::default()
    };
    pod.add_exec(CONTAINER, EXEC, process(&command), io).await?;
    pod.start_exec(CONTAINER, EXEC).await?;
    // Returns after the output has been delivered, too.
    let exit = pod.wait(CONTAINER, Some(EXEC)).await?;
    pod.delete(CONTAINER, Some(EXEC)).await?;

    pod.kill(CONTAINER, None, libc::SIGKILL as u32, true)
        .await?;
    pod.wait(CONTAINER, None).await?;
    pod.delete(CONTAINER, None).await?;
    Ok(u8::try_from(exit.status).unwrap_or(u8::MAX))
}
