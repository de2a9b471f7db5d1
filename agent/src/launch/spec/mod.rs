//! The agent's changes to an OCI spec before libcontainer reads it.
//!
//! libcontainer handles namespaces, mounts, devices, masked and read-only paths, sysctls,
//! hooks, users and the terminal. The agent handles the cgroup (with the same code for create
//! and update) and the last steps before exec (`Launch`), since libcontainer 0.7 loses the
//! order of the environment, runs exec sessions without seccomp, and runs its own
//! synchronisation under the container's limits and filter.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCapabilities, LinuxNamespaceType, LinuxResources, PosixRlimit, Process, Spec,
};
use protos::agent;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::launch::seccomp::Filter;
use crate::stdio::descriptor;

/// The last steps of a process before exec (see `workload`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The process as requested by the host.
    pub process: Process,
    pub seccomp: Option<Filter>,
    /// Whether to make the working directory if it is missing.
    pub make_cwd: bool,
    /// The descriptors that it keeps open beside its stdio.
    pub descriptors: Vec<u32>,
}

/// The settings that exec sessions inherit from their container unless they have their own.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    capabilities: Option<LinuxCapabilities>,
    rlimits: Option<Vec<PosixRlimit>>,
    no_new_privileges: Option<bool>,
    oom_score_adj: Option<i32>,
    seccomp: Option<Filter>,
}

/// A checked spec of a container.
#[derive(Debug)]
pub struct Plan {
    /// For libcontainer.
    pub spec: Spec,
    pub launch: Launch,
    pub inherited: Inherited,
    pub cgroup: Cgroup,
    pub resources: LinuxResources,
    /// Network sysctls; the containers share the guest's network.
    pub net_sysctls: Vec<(String, String)>,
    /// Whether the end of its init ends all of its processes.
    pub private_pid_namespace: bool,
}

const ABSOLUTE: &str = "an absolute path";

/// Reads and checks the spec of a container.
pub fn plan(id: &str, json: &[u8], stdio: &agent::Stdio) -> Result<Plan> {
    let mut spec: Spec = parse(json, "OCI spec")?;
    check_root(&spec)?;
    let mut process = spec.process().clone().ok_or(Error::Missing("process"))?;
    process.set_terminal(Some(stdio.terminal));
    check_process(&process)?;
    check_mounts(&spec)?;

    let mut linux = spec.linux().clone().unwrap_or_default();
    let namespace = |typ| {
        linux
            .namespaces()
            .iter()
            .flatten()
            .find(|namespace| namespace.typ() == typ)
    };
    if namespace(LinuxNamespaceType::User).is_some() {
        return Err(Error::Unsupported("user namespaces".into()));
    }
    if namespace(LinuxNamespaceType::Mount).is_none() {
        return Err(Error::Requires {
            what: "a container".into(),
            needs: "a mount namespace of its own",
        });
    }
    let private_pid_namespace = namespace(LinuxNamespaceType::Pid).is_some_and(|namespace| {
        namespace
            .path()
            .as_ref()
            .is_none_or(|path| path.as_os_str().is_empty())
    });
    let shares_network = namespace(LinuxNamespaceType::Network).is_none();

    let default_path = PathBuf::from(id);
    let cgroup = Cgroup::new(linux.cgroups_path().as_ref().unwrap_or(&default_path))?;
    // libcontainer joins the cgroup by its path below the root.
    linux.set_cgroups_path(Some(cgroup.below_root()));
    let resources = linux.resources().clone().unwrap_or_default();
    linux.set_resources(None);

    let seccomp = linux.seccomp().as_ref().map(Filter::compile).transpose()?;
    linux.set_seccomp(None);
    linux.set_intel_rdt(None);
    let mut net_sysctls = Vec::new();
    if shares_network && let Some(mut sysctls) = linux.sysctl().clone() {
        sysctls.retain(|key, value| {
            let of_network = key.starts_with("net.") || key.starts_with("net/");
            if of_network {
                net_sysctls.push((key.clone(), value.clone()));
            }
            !of_network
        });
        linux.set_sysctl(Some(sysctls));
    }

    let inherited = Inherited {
        capabilities: process.capabilities().clone(),
        rlimits: process.rlimits().clone(),
        no_new_privileges: process.no_new_privileges(),
        oom_score_adj: process.oom_score_adj(),
        seccomp: seccomp.clone(),
    };
    spec.set_process(Some(for_libcontainer(&process)));
    spec.set_linux(Some(linux));
    Ok(Plan {
        spec,
        launch: Launch {
            process,
            seccomp,
            make_cwd: true,
            descriptors: descriptor::numbers(&stdio.descriptors)?,
        },
        inherited,
        cgroup,
        resources,
        net_sysctls,
        private_pid_namespace,
    })
}

/// Reads and checks the process of an exec session: the part for libcontainer, and the part for
/// the last steps.
pub fn plan_exec(
    json: &[u8],
    stdio: &agent::Stdio,
    inherited: &Inherited,
) -> Result<(Process, Launch)> {
    let mut process: Process = parse(json, "OCI process")?;
    process.set_terminal(Some(stdio.terminal));
    check_process(&process)?;
    if process.capabilities().is_none() {
        process.set_capabilities(inherited.capabilities.clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(inherited.rlimits.clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(inherited.no_new_privileges);
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(inherited.oom_score_adj);
    }
    let launch = Launch {
        seccomp: inherited.seccomp.clone(),
        make_cwd: false,
        descriptors: descriptor::numbers(&stdio.descriptors)?,
        process,
    };
    Ok((for_libcontainer(&launch.process), launch))
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8], what: &'static str) -> Result<T> {
    serde_json::from_slice(json).map_err(Error::document(what))
}

/// The process without the settings that `workload` applies later.
fn for_libcontainer(process: &Process) -> Process {
    let mut process = process.clone();
    process.set_cwd("/".into());
    process.set_capabilities(None);
    process.set_rlimits(None);
    // AppArmor profiles and SELinux labels belong to the host's kernel, which does not run
    // here.
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    process
}

fn check_root(spec: &Spec) -> Result<()> {
    let root = spec.root().as_ref().ok_or(Error::Missing("root"))?;
    let path = root.path();
    if !path.is_absolute() {
        return Err(Error::invalid("root.path", path.display(), ABSOLUTE));
    }
    if !path.is_dir() {
        return Err(Error::NotInGuest {
            what: "rootfs".into(),
            path: path.clone(),
        });
    }
    Ok(())
}

fn check_process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::Missing("process.args"));
    }
    if !process.cwd().is_absolute() {
        let cwd = process.cwd().display();
        return Err(Error::invalid("process.cwd", cwd, ABSOLUTE));
    }
    let user = process.user();
    let groups = user.additional_gids().iter().flatten();
    // setresuid(2) takes it for "unchanged", which would be root.
    if [user.uid(), user.gid()]
        .iter()
        .chain(groups)
        .any(|id| *id == u32::MAX)
    {
        let expected = format!("ids of at most {}", u32::MAX - 1);
        return Err(Error::invalid("process.user", u32::MAX, expected));
    }
    for limit in process.rlimits().iter().flatten() {
        if limit.soft() > limit.hard() {
            let field = format!("soft limit of {}", limit.typ());
            let expected = format!("at most the hard limit {}", limit.hard());
            return Err(Error::invalid(field, limit.soft(), expected));
        }
    }
    let args = process.args().iter().flatten();
    if args
        .chain(process.env().iter().flatten())
        .any(|s| s.contains('\0'))
    {
        return Err(Error::invalid("process.args or env", "\0", "no NUL byte"));
    }
    Ok(())
}

fn check_mounts(spec: &Spec) -> Result<()> {
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().iter().flatten();
        let binds = mount.typ().as_deref() == Some("bind")
            || options.into_iter().any(|o| o == "bind" || o == "rbind");
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        if binds && !source.exists() {
            let destination = mount.destination().display();
            return Err(Error::NotInGuest {
                what: format!("source of the mount on {destination}").into(),
                path: source.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
