//! `rust-kata pod create`: the words that say what a pod is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use hypervisor::HypervisorKind;
use oci_spec::runtime::{Hook, HookBuilder};
use runtime::Error;
use runtime::engine::PodHandle;
use runtime::engine::records::definition::{ExitPolicy, PodDefinition, SharedNamespace};

use super::Context;
use super::error::CliResult;
use super::spec::{bytes, pairs};

/// `rust-kata pod create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name [default: made up]
    #[arg(long, short)]
    name: Option<String>,

    /// Its host name [default: its name]
    #[arg(long)]
    hostname: Option<String>,

    /// A label
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Namespaces that its containers share: net, ipc, uts, pid, or none; +pid adds one to the usual
    #[arg(long, value_name = "LIST", default_value = USUAL)]
    share: String,

    /// Whether the pod stays up without running containers
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    infra: bool,

    /// When its last container has ended: continue or stop
    #[arg(long, value_name = "POLICY", default_value = "continue")]
    exit_policy: String,

    /// The cgroup of the host below which its own is made: a path of cgroupfs, a slice of systemd
    #[arg(long, value_name = "PATH|SLICE")]
    cgroup_parent: Option<PathBuf>,

    /// CPUs that all its containers may use, as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// Microseconds of CPU time that they may use per period, instead of --cpus
    #[arg(
        long,
        value_name = "MICROSECONDS",
        conflicts_with = "cpus",
        allow_hyphen_values = true
    )]
    cpu_quota: Option<i64>,

    /// The period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,

    /// Its weight against others when CPU time is short, 2 to 262144
    #[arg(long, short = 'c', value_name = "SHARES")]
    cpu_shares: Option<u64>,

    /// CPUs of the host that it may run on, as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory that all its containers may use: a number with k, m or g
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// Memory of the VM itself, in MiB [default: as configured]
    #[arg(long, value_name = "MiB")]
    vm_memory: Option<u32>,

    /// Virtual CPUs of the VM [default: as configured]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// What runs the VM: auto, kvm or qemu [default: as configured]
    #[arg(long, value_name = "KIND")]
    hypervisor: Option<HypervisorKind>,

    /// A program of the host to run when its VM is up, with the pod's state on stdin; its failure is
    /// the pod's
    #[arg(long, value_name = "PROGRAM [ARG...]")]
    hook_post_start: Vec<String>,

    /// A program of the host to run when its VM is gone, with the pod's state on stdin
    #[arg(long, value_name = "PROGRAM [ARG...]")]
    hook_post_stop: Vec<String>,

    /// Seconds that a hook may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    hook_timeout: u32,
}

/// The namespaces that containers share if nothing is said.
const USUAL: &str = "net,ipc,uts";

/// Microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

impl Create {
    /// Creates the pod.
    pub(super) fn run(self, context: &Context) -> CliResult<PodHandle> {
        let mut pod = PodDefinition::new(context.new_namespace(), &self.name.unwrap_or_default());
        pod.hostname = self.hostname;
        pod.labels = pairs(&self.label, "label")?;
        pod.create_command = std::env::args().collect();
        pod.infra = self.infra;
        pod.share = shared(&self.share)?;
        if !self.infra && self.share == USUAL {
            pod.share.clear();
        }
        pod.exit_policy = match self.exit_policy.as_str() {
            "continue" => ExitPolicy::Continue,
            "stop" => ExitPolicy::Stop,
            other => {
                let problem = format!("--exit-policy {other}: it is continue or stop");
                return Err(Error::Invalid(problem).into());
            }
        };
        pod.cgroup_parent = self.cgroup_parent;
        let period = self.cpu_period.unwrap_or(PERIOD);
        let quota = self.cpus.map(|cpus| (cpus * period as f64) as i64);
        pod.resources.cpu_quota = quota.or(self.cpu_quota);
        pod.resources.cpu_period = self.cpu_period;
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

/// A program of the host with its words, as an OCI hook.
fn hook(line: &str, timeout: u32) -> Result<Hook, Error> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let program = words.first().filter(|program| program.starts_with('/'));
    let Some(program) = program else {
        return Err(Error::Invalid(format!(
            "The hook {line:?}: it begins with the absolute path of a program"
        )));
    };
    if !std::path::Path::new(program).is_file() {
        return Err(Error::Invalid(format!(
            "The hook {line:?}: {program} is no file"
        )));
    }
    let hook = HookBuilder::default()
        .path(program)
        .timeout(i64::from(timeout.max(1)))
        .args(words);
    hook.build().map_err(|e| Error::Internal(e.to_string()))
}

fn shared(list: &str) -> Result<BTreeSet<SharedNamespace>, Error> {
    let list = match list.strip_prefix('+') {
        Some(more) => format!("{USUAL},{more}"),
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
            other => Err(Error::Invalid(format!(
                "--share {other}: containers can share net, ipc, uts and pid, or none"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use SharedNamespace::{Ipc, Net, Pid, Uts};

    #[test]
    fn namespaces_are_shared_as_podman_has_it() {
        assert_eq!(shared(USUAL).unwrap(), BTreeSet::from([Net, Ipc, Uts]));
        assert_eq!(
            shared("+pid").unwrap(),
            BTreeSet::from([Net, Ipc, Uts, Pid])
        );
        assert_eq!(shared("pid").unwrap(), BTreeSet::from([Pid]));
        assert!(shared("none").unwrap().is_empty() && shared("").unwrap().is_empty());
        assert!(
            shared("mount")
                .unwrap_err()
                .to_string()
                .contains("--share mount")
        );
    }

    #[test]
    fn hooks_are_programs_by_absolute_path() {
        let made = hook("/bin/sh -c true", 5).unwrap();
        assert_eq!(made.args().as_deref().unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!(made.timeout(), Some(5));
        for bad in ["", "sh", "/nonexistent/program"] {
            assert!(hook(bad, 5).is_err(), "{bad}");
        }
    }
}
