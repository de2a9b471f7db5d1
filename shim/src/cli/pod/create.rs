//! `rust-kata pod create`, and the arguments that describe a pod.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use hypervisor::HypervisorKind;
use oci_spec::runtime::{Hook, HookBuilder};
use runtime::Error;
use runtime::engine::PodHandle;
use runtime::engine::records::definition::{ExitPolicy, PodDefinition, SharedNamespace};

use crate::cli::arguments::Labels;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::cli::values::{bytes, pairs};

/// Arguments of `pod create` and `pod run`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the pod [default: generated]
    #[arg(long, short)]
    name: Option<String>,

    /// Host name of the pod [default: its name]
    #[arg(long)]
    hostname: Option<String>,

    #[command(flatten)]
    labels: Labels,

    /// Namespaces that the containers share: net, ipc, uts, pid, or none; +pid adds to the default
    #[arg(long, value_name = "LIST", default_value = DEFAULT_SHARE)]
    share: String,

    /// Keep the pod running without running containers
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    infra: bool,

    /// Action when the last container has ended: continue or stop
    #[arg(long, value_name = "POLICY", default_value = "continue")]
    exit_policy: String,

    /// Parent cgroup on the host: a cgroupfs path or a systemd slice
    #[arg(long, value_name = "PATH|SLICE")]
    cgroup_parent: Option<String>,

    /// Number of CPUs for all containers of the pod, such as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// CPU time per period in microseconds, instead of --cpus
    #[arg(
        long,
        value_name = "MICROSECONDS",
        conflicts_with = "cpus",
        allow_hyphen_values = true
    )]
    cpu_quota: Option<i64>,

    /// CPU period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,

    /// CPU weight relative to other pods, 2 to 262144
    #[arg(long, short = 'c', value_name = "SHARES")]
    cpu_shares: Option<u64>,

    /// CPUs of the host to run on, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory limit for all containers of the pod: NUMBER[k|m|g]
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// Memory of the VM itself, in MiB [default: as configured]
    #[arg(long, value_name = "MiB")]
    vm_memory: Option<u32>,

    /// Virtual CPUs of the VM [default: as configured]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Hypervisor of the VM: auto, kvm or qemu [default: as configured]
    #[arg(long, value_name = "KIND")]
    hypervisor: Option<HypervisorKind>,

    /// Program of the host to run when the VM is up, with the state of the pod on stdin; if it
    /// fails, the start fails
    #[arg(long, value_name = "PROGRAM [ARG...]")]
    hook_post_start: Vec<String>,

    /// Program of the host to run when the VM has ended, with the state of the pod on stdin
    #[arg(long, value_name = "PROGRAM [ARG...]")]
    hook_post_stop: Vec<String>,

    /// Timeout of a hook in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    hook_timeout: u32,
}

/// The namespaces that containers share by default.
const DEFAULT_SHARE: &str = "net,ipc,uts";

/// The kernel's default CPU period, in microseconds.
const PERIOD: u64 = 100_000;

impl Create {
    /// Creates the pod and prints its name.
    pub(crate) fn run(self, context: &Context) -> CliResult<()> {
        let pod = self.create(context)?;
        print(&format!("{}\n", pod.name()))
    }

    /// Creates the pod.
    pub(crate) fn create(self, context: &Context) -> CliResult<PodHandle> {
        let mut pod = PodDefinition::new(context.new_namespace(), &self.name.unwrap_or_default());
        pod.hostname = self.hostname;
        pod.labels = pairs(&self.labels.label, "label")?;
        pod.create_command = std::env::args().collect();
        pod.infra = self.infra;
        pod.share = shared(&self.share)?;
        if !self.infra && self.share == DEFAULT_SHARE {
            pod.share.clear();
        }
        pod.exit_policy = match self.exit_policy.as_str() {
            "continue" => ExitPolicy::Continue,
            "stop" => ExitPolicy::Stop,
            other => {
                return Err(Error::invalid("exit policy", other, "continue or stop").into());
            }
        };
        // As with podman, an empty one is the default.
        let parent = self.cgroup_parent.filter(|parent| !parent.is_empty());
        pod.cgroup_parent = parent.map(PathBuf::from);
        let period = self.cpu_period.unwrap_or(PERIOD);
        let quota = self.cpus.map(|cpus| (cpus * period as f64) as i64);
        pod.resources.cpu_quota = quota.or(self.cpu_quota);
        pod.resources.cpu_period = self.cpu_period.or(self.cpus.map(|_| period));
        pod.resources.cpu_shares = self.cpu_shares;
        pod.resources.cpuset = self.cpuset_cpus;
        pod.resources.memory = self.memory.as_deref().map(bytes).transpose()?;
        pod.memory_mib = self.vm_memory;
        pod.vcpus = self.vcpus;
        pod.hypervisor = self.hypervisor;
        let hooks = |words: &[String]| -> Result<Vec<Hook>, Error> {
            let hooks = words.iter().map(|line| hook(line, self.hook_timeout));
            hooks.collect()
        };
        pod.hooks.post_start = hooks(&self.hook_post_start)?;
        pod.hooks.post_stop = hooks(&self.hook_post_stop)?;
        Ok(context.engine.create_pod(pod)?)
    }
}

/// A command line of the host as an OCI hook.
fn hook(line: &str, timeout: u32) -> Result<Hook, Error> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let program = words.first().filter(|program| program.starts_with('/'));
    let Some(program) = program else {
        let expected = "the absolute path of a program first";
        return Err(Error::invalid("hook", line, expected));
    };
    let found = std::fs::metadata(program).and_then(|found| match found.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => Ok(()),
    });
    found.map_err(Error::invalid_path("program of a hook", program))?;
    let hook = HookBuilder::default()
        .path(program)
        .timeout(i64::from(timeout.max(1)))
        .args(words);
    hook.build().map_err(Error::encode("the hook"))
}

fn shared(list: &str) -> Result<BTreeSet<SharedNamespace>, Error> {
    let list = match list.strip_prefix('+') {
        Some(more) => format!("{DEFAULT_SHARE},{more}"),
        None => list.to_owned(),
    };
    let words = list
        .split(',')
        .filter(|word| !word.is_empty() && *word != "none");
    words
        .map(|word| match word {
            "net" => Ok(SharedNamespace::Net),
            "ipc" => Ok(SharedNamespace::Ipc),
            "uts" => Ok(SharedNamespace::Uts),
            "pid" => Ok(SharedNamespace::Pid),
            other => {
                let expected = "net, ipc, uts, pid or none";
                Err(Error::invalid("namespace", other, expected))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use SharedNamespace::{Ipc, Net, Pid, Uts};

    #[test]
    fn namespaces_are_shared_as_podman_has_it() {
        assert_eq!(
            shared(DEFAULT_SHARE).unwrap(),
            BTreeSet::from([Net, Ipc, Uts])
        );
        assert_eq!(
            shared("+pid").unwrap(),
            BTreeSet::from([Net, Ipc, Uts, Pid])
        );
        assert_eq!(shared("pid").unwrap(), BTreeSet::from([Pid]));
        assert!(shared("none").unwrap().is_empty() && shared("").unwrap().is_empty());
        assert!(matches!(
            shared("mount"),
            Err(Error::InvalidValue { value, .. }) if value == "mount"
        ));
    }

    #[test]
    fn hooks_are_programs_by_absolute_path() {
        let made = hook("/bin/sh -c true", 5).unwrap();
        assert_eq!(made.args().as_deref().unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!(made.timeout(), Some(5));
        assert_eq!(hook("/bin/sh", 0).unwrap().timeout(), Some(1));
        let no_program = "expected the absolute path of a program first";
        for (bad, why) in [
            ("", no_program),
            ("sh", no_program),
            ("/nonexistent/program", "/nonexistent/program: No such file"),
            ("/tmp", "/tmp: is a directory"),
        ] {
            let said = hook(bad, 5).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
