//! `run`: runs one OCI bundle in a VM of its own, without containerd. This process owns the
//! pod.

use std::io::{stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hypervisor::HypervisorKind;
use oci_spec::runtime::Spec;
use runtime::{
    BootProgress, Config, ContainerConfig, Endpoint, ErrorKind, ManagedBy, Pod, PodConfig,
    ProcessIo, Runtime,
};
use tokio::time::{sleep_until, timeout};

use crate::error::{Context, Error, Result};
use crate::logger;
use crate::reap::{reap, reap_abandoned};
use crate::signals::{Signals, code_of_signal};
use crate::terminal::{self, Raw, say};

/// The namespace of pods that `run` creates.
const NAMESPACE: &str = "run";

/// The exit code for errors of this program, as with podman.
pub const OWN_ERROR: u8 = 125;

/// The annotations that set the size of a VM.
const MEMORY: &str = "io.rust-kata.memory_mib";
const VCPUS: &str = "io.rust-kata.vcpus";

/// How long a container may run after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// How long the VM may take to end after the container.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Run an OCI bundle in a virtual machine of its own and exit with the container's code
#[derive(Debug, Parser)]
#[command(
    name = "run",
    bin_name = "containerd-shim-rust-kata-v2 run",
    after_long_help = EXAMPLES,
    disable_version_flag = true
)]
pub struct Args {
    /// OCI bundle: a directory with config.json and the root file system named in it
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,

    /// Name of the container and its pod, unique among running ones [default: made from the
    /// bundle's name]
    #[arg(long)]
    id: Option<String>,

    /// Hypervisor of the VM: auto, kvm or qemu [default: as configured]
    #[arg(long, value_name = "KIND")]
    hypervisor: Option<HypervisorKind>,

    /// Memory of the VM [default: as configured]
    #[arg(long, value_name = "MiB")]
    memory: Option<u32>,

    /// Virtual CPUs of the VM [default: as configured]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Configuration file, instead of $RUST_KATA_CONFIG, /etc/rust-kata/config.toml or the one
    /// installed with this binary
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Show on stderr what happens and how long each step takes
    #[arg(long, short)]
    verbose: bool,
}

const EXAMPLES: &str = "\
EXAMPLES
  A bundle from the busybox of this machine:
    mkdir -p demo/rootfs/bin
    cp /bin/busybox demo/rootfs/bin/        # a static build: busybox-static
    for applet in sh ls id uname hostname; do
      ln -s busybox demo/rootfs/bin/$applet
    done
    (cd demo && runc spec)                  # writes config.json: a shell on a terminal
    containerd-shim-rust-kata-v2 run --bundle demo --verbose

  A bundle from an image, with umoci and skopeo:
    skopeo copy docker://alpine oci:alpine:latest
    umoci unpack --image alpine:latest demo2
    containerd-shim-rust-kata-v2 run --bundle demo2

  Another command, without a terminal:
    jq '.process.terminal = false | .process.args = [\"uname\", \"-a\"]' \\
      demo/config.json > c && mv c demo/config.json
    containerd-shim-rust-kata-v2 run --bundle demo --memory 128

TERMINAL
  With process.terminal in config.json and a terminal on stdin, the container
  uses that terminal. Its mode is restored at the end.

SIGNALS
  TERM, INT, HUP, QUIT, USR1 and USR2 go to the container. A container that
  still runs 10 s after TERM is killed. If this program is killed by SIGKILL,
  its VM ends at once, and the next run removes what is left.

EXIT CODE
  The exit code of the container; 128 + N if signal N ended it.
  125  rust-kata failed: one line on stderr says why
  126  the command is not executable
  127  the command does not exist";

/// Runs the command and returns the exit code.
pub fn run(words: impl IntoIterator<Item = String>) -> u8 {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(problem) => {
            let code = if problem.use_stderr() { OWN_ERROR } else { 0 };
            let _ = problem.print();
            return code;
        }
    };
    let result = Session::new(args).and_then(Session::run);
    // The message must start at the left margin.
    terminal::restore();
    result.unwrap_or_else(|error| {
        say(&error.to_string());
        code_of(&error)
    })
}

/// One `run`.
struct Session {
    spec: Spec,
    bundle: PathBuf,
    id: String,
    terminal: bool,
    pod: PodConfig,
    config: Config,
    steps: Steps,
}

impl Session {
    fn new(args: Args) -> Result<Self> {
        let steps = Steps::new(args.verbose);
        let bundle = args
            .bundle
            .canonicalize()
            .on("open the bundle", &args.bundle)?;
        let spec = runtime::load_spec(&bundle)?;
        runtime::check_host_namespaces(&spec, true)?;
        let mut config = Config::load(args.config.as_deref())?;
        config.hypervisor = args.hypervisor.unwrap_or(config.hypervisor);
        if args.verbose {
            logger::to_stderr(config.debug);
        }
        let id = args.id.unwrap_or_else(|| {
            let name = bundle.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}-{}", std::process::id())
        });
        let mut pod = PodConfig::from_spec(NAMESPACE, &id, "", &spec);
        pod.managed_by = ManagedBy::Run;
        // The command line overrides the bundle's annotations, which override the
        // configuration.
        let asked = [(MEMORY, args.memory), (VCPUS, args.vcpus)];
        for (name, value) in asked {
            if let Some(value) = value {
                pod.labels.insert(name.to_owned(), value.to_string());
            }
        }
        steps.done("bundle and configuration read");
        Ok(Self {
            bundle,
            id,
            terminal: wants_terminal(&spec),
            spec,
            pod,
            config,
            steps,
        })
    }

    fn run(self) -> Result<u8> {
        reap_abandoned(self.config.clone(), NAMESPACE)?;
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .doing("start the runtime's threads")?;
        let result = tokio.block_on(self.own_pod());
        // A blocked read of the terminal cannot be cancelled: do not wait for it.
        tokio.shutdown_timeout(Duration::from_millis(200));
        terminal::restore();
        let left = reap(self.config.clone(), NAMESPACE, &self.id);
        self.steps.done("everything undone");
        let code = result?;
        left?;
        Ok(code)
    }

    async fn own_pod(&self) -> Result<u8> {
        let mut signals = Signals::watch()?;
        let (pod, _raw) = tokio::select! {
            created = self.create() => created?,
            // What is half done is undone after the runtime has stopped.
            number = signals.next_fatal() => return Ok(code_of_signal(number)),
        };
        let exit = self.attend(&pod, &mut signals).await;
        self.steps.done("container ended");
        let ended = timeout(SHUTDOWN, async {
            if exit.is_ok() {
                pod.delete(&self.id, None).await?;
            }
            pod.shutdown().await
        });
        let ended = ended.await;
        let code = exit?;
        ended.map_err(|_| Error::Deadline {
            what: "the end of the VM",
            seconds: SHUTDOWN.as_secs_f32(),
        })??;
        self.steps.done("VM ended");
        Ok(code)
    }

    /// Creates the pod with its container ready to start, and takes the terminal.
    async fn create(&self) -> Result<(Arc<Pod>, Option<Raw>)> {
        let io = own_stdio(self.terminal)?;
        let runtime = Runtime::new(self.config.clone())?;
        let progress = self.steps.progress();
        let (pod, _events) = runtime.create_pod(self.pod.clone(), progress).await?;
        let created = self.create_container(&pod, io).await;
        match created {
            Ok(raw) => Ok((pod, raw)),
            Err(error) => {
                let _ = timeout(SHUTDOWN, pod.shutdown()).await;
                Err(error)
            }
        }
    }

    async fn create_container(&self, pod: &Arc<Pod>, io: ProcessIo) -> Result<Option<Raw>> {
        pod.create_container(ContainerConfig {
            id: self.id.clone(),
            spec: self.spec.clone(),
            bundle: self.bundle.clone(),
            rootfs: Vec::new(),
            io,
            sandbox: true,
        })
        .await?;
        self.steps.done("container created");
        let raw = if self.terminal { Raw::enter()? } else { None };
        if self.terminal
            && let Some((width, height)) = terminal::size()
        {
            pod.resize_pty(&self.id, None, width, height).await?;
        }
        Ok(raw)
    }

    /// Waits from the container's start to its end and returns its exit code. Signals go to the
    /// container from now on; delivery may take a moment.
    async fn attend(&self, pod: &Arc<Pod>, signals: &mut Signals) -> Result<u8> {
        pod.start(&self.id).await?;
        self.steps.done("container started");
        let exit = pod.wait(&self.id, None);
        tokio::pin!(exit);
        let mut patience: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                exit = &mut exit => return Ok(u8::try_from(exit?.status).unwrap_or(u8::MAX)),
                number = signals.next() => {
                    if number == libc::SIGTERM {
                        patience.get_or_insert_with(|| tokio::time::Instant::now() + GRACE);
                    }
                    self.pass_on(pod, number).await;
                }
                () = until(patience), if patience.is_some() => {
                    patience = None;
                    say("The container does not end on SIGTERM: it is killed");
                    self.pass_on(pod, libc::SIGKILL).await;
                }
            }
        }
    }

    async fn pass_on(&self, pod: &Arc<Pod>, number: libc::c_int) {
        let passed = match (number, terminal::size()) {
            (libc::SIGWINCH, Some((width, height))) => {
                pod.resize_pty(&self.id, None, width, height).await
            }
            (libc::SIGWINCH, None) => Ok(()),
            _ => pod.kill(&self.id, None, number as u32, false).await,
        };
        match passed {
            // The container has ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::warn!("Signal {number} was not passed on: {error}"),
            Ok(()) => {}
        }
    }
}

fn wants_terminal(spec: &Spec) -> bool {
    spec.process()
        .as_ref()
        .and_then(|process| process.terminal())
        .unwrap_or(false)
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Passes this process's own descriptors to the container.
fn own_stdio(terminal: bool) -> Result<ProcessIo> {
    let copy = |fd: std::os::fd::BorrowedFd| {
        fd.try_clone_to_owned()
            .map(Endpoint::Fd)
            .doing("copy a descriptor")
    };
    Ok(ProcessIo {
        stdin: copy(stdin().as_fd())?,
        stdout: copy(stdout().as_fd())?,
        stderr: if terminal {
            Endpoint::None
        } else {
            copy(stderr().as_fd())?
        },
        terminal,
        descriptors: Vec::new(),
    })
}

/// The exit code of a failure: as a shell's if the command cannot be run.
fn code_of(error: &Error) -> u8 {
    match error {
        Error::Runtime(runtime::Error::Command { exit_code, .. }) => *exit_code,
        _ => OWN_ERROR,
    }
}

/// The lines of `--verbose`.
#[derive(Clone)]
struct Steps {
    since: Instant,
    verbose: bool,
}

impl Steps {
    fn new(verbose: bool) -> Self {
        Self {
            since: Instant::now(),
            verbose,
        }
    }

    fn done(&self, step: &str) {
        if self.verbose {
            say(&format!(
                "{:>6} ms  {step}",
                self.since.elapsed().as_millis()
            ));
        }
    }

    fn progress(&self) -> BootProgress {
        let steps = self.clone();
        self.verbose.then(|| {
            Arc::new(move |step: &str| steps.done(step)) as Arc<dyn Fn(&str) + Send + Sync>
        })
    }
}

#[cfg(test)]
mod tests;
