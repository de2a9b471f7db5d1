//! Translates an OCI spec for the guest: paths of the host become paths of the share tree,
//! namespaces of the host become those of the pod, and parts for the host alone are removed.

pub(crate) mod host_namespaces;
pub(crate) mod propagation;
mod shm;

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount as OciMount, Spec,
};
use protos::agent::Storage;
use protos::{GUEST_NAMESPACES, GUEST_SHARE};

use crate::error::{Result, SpecError};
use crate::host::mount::Mount;

/// The position of a container in its pod.
#[derive(Debug)]
pub struct Placement<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's bundle, for relative paths.
    pub bundle: &'a Path,
    /// Whether it belongs to a pod of several containers (CRI), and so shares the pod's ipc and
    /// uts namespaces.
    pub in_pod: bool,
    /// The sandbox container's init in the guest, for a shared pid namespace.
    pub sandbox_pid: Option<u32>,
    /// Whether the containers share a pid namespace of the pod.
    pub share_pid: bool,
}

/// A spec for the guest, and the bind mounts that the host makes for it.
#[derive(Debug)]
pub struct Translated {
    /// The spec for the agent.
    pub spec: Spec,
    /// The sources to bind into the share tree, each with the index of its mount in the spec.
    pub sources: Vec<(usize, Mount)>,
    /// The mounts that the guest makes itself, for all containers of the pod.
    pub storages: Vec<Storage>,
}

/// Translates a spec for the guest.
///
/// # Errors
/// [`Error::Spec`] naming the field that a VM does not support.
pub fn translate(spec: &Spec, at: &Placement) -> Result<Translated> {
    let mut spec = spec.clone();
    if let Some(root) = spec.root_mut() {
        root.set_path(guest_dir(at.id).join("rootfs"));
    }
    let default = propagation::of_root(&mut spec)?;
    let (mut sources, mut storages) = (Vec::new(), Vec::new());
    for (n, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        propagation::check(mount)?;
        if !is_bind(mount) {
            continue;
        }
        if let Some(shm) = shm::of(mount, at.bundle)? {
            mount.set_source(Some(PathBuf::from(&shm.target)));
            storages.push(shm);
        } else {
            let bind = host_bind(mount, at.bundle, default)?;
            propagation::leave_writable_below(mount, &bind)?;
            sources.push((n, bind));
            mount.set_source(Some(guest_dir(at.id).join("mounts").join(n.to_string())));
        }
    }
    if let Some(process) = spec.process_mut() {
        // The guest runs neither AppArmor nor SELinux; the host's labels have no meaning there.
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
    }
    // The other hooks run in the runtime's namespaces, that is, on the host.
    if let Some(hooks) = spec.hooks_mut() {
        let create = hooks.create_container().clone();
        let start = hooks.start_container().clone();
        *hooks = Default::default();
        hooks.set_create_container(create);
        hooks.set_start_container(start);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(guest_cgroup(linux.cgroups_path().as_deref(), at.id)));
        linux.set_mount_label(None);
        linux.set_intel_rdt(None);
        if let Some(namespaces) = linux.namespaces_mut() {
            *namespaces = guest_namespaces(namespaces, at)?;
        }
        if let Some(resources) = linux.resources_mut() {
            guest_resources(resources);
        }
    }
    Ok(Translated {
        spec,
        sources,
        storages,
    })
}

/// Removes from a resource description what only the host has: devices by number, CPU and
/// memory node numbers, cgroup v1 settings.
pub fn guest_resources(resources: &mut LinuxResources) {
    resources
        .set_rdma(None)
        .set_network(None)
        .set_hugepage_limits(None);
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
        cpu.set_realtime_period(None).set_realtime_runtime(None);
    }
    if let Some(memory) = resources.memory_mut() {
        *memory = {
            let mut kept = oci_spec::runtime::LinuxMemory::default();
            kept.set_limit(memory.limit());
            kept.set_reservation(memory.reservation());
            kept.set_swap(memory.swap());
            kept
        };
    }
    if let Some(io) = resources.block_io_mut() {
        let weight = io.weight();
        *io = Default::default();
        io.set_weight(weight);
    }
}

fn guest_dir(id: &str) -> PathBuf {
    Path::new(GUEST_SHARE).join(id)
}

pub(crate) fn is_bind(mount: &OciMount) -> bool {
    let by_option = mount
        .options()
        .iter()
        .flatten()
        .any(|o| o == "bind" || o == "rbind");
    by_option || mount.typ().as_deref() == Some("bind")
}

/// The host's part of a bind mount. Read-only is enforced here as well, since the guest's
/// kernel is not trusted. Propagation exists only here: mounts in the guest stay in the guest.
/// `default` is the propagation of mounts that do not name one.
fn host_bind(mount: &OciMount, bundle: &Path, default: Option<&str>) -> Result<Mount> {
    let source = mount.source().as_ref().ok_or_else(|| SpecError::NoSource {
        destination: mount.destination().clone(),
    })?;
    let given = mount.options().iter().flatten().map(String::as_str);
    let kept = |o: &&str| matches!(*o, "bind" | "rbind" | "ro" | "rro") || propagation::is_one(o);
    Ok(Mount {
        kind: "bind".into(),
        source: bundle.join(source).to_string_lossy().into_owned(),
        target: String::new(),
        options: default
            .into_iter()
            .chain(given.filter(kept))
            .map(str::to_owned)
            .collect(),
    })
}

/// The cgroup in the guest: the host's path if it is a plain one, so that the container sees
/// the same in `/proc/self/cgroup`.
fn guest_cgroup(path: Option<&Path>, id: &str) -> PathBuf {
    let plain = |p: &&Path| {
        p.is_absolute()
            && p.components().count() > 1
            && p.components()
                .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
    };
    path.filter(plain)
        .map_or_else(|| Path::new("/").join(id), Path::to_owned)
}

fn guest_namespaces(from: &[LinuxNamespace], at: &Placement) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as Type;
    let mut to = Vec::with_capacity(from.len());
    for namespace in from {
        let joins = namespace.path().is_some();
        let path = match namespace.typ() {
            // The VM is the pod's network namespace.
            Type::Network if joins || at.in_pod => continue,
            Type::Ipc if joins || at.in_pod => Some(Path::new(GUEST_NAMESPACES).join("ipc")),
            Type::Uts if joins || at.in_pod => Some(Path::new(GUEST_NAMESPACES).join("uts")),
            Type::Pid if joins && at.share_pid => Some(Path::new(GUEST_NAMESPACES).join("pid")),
            Type::Pid if joins => Some(sandbox_namespace(at, "pid")?),
            Type::User if joins => Some(sandbox_namespace(at, "user")?),
            Type::Mount | Type::Cgroup | Type::Time if joins => {
                return Err(SpecError::JoinsNamespace {
                    namespace: namespace.typ(),
                    path: namespace.path().clone().unwrap_or_default(),
                }
                .into());
            }
            _ => None,
        };
        let mut namespace = namespace.clone();
        namespace.set_path(path);
        to.push(namespace);
    }
    Ok(to)
}

fn sandbox_namespace(at: &Placement, name: &'static str) -> Result<PathBuf> {
    let pid = at.sandbox_pid.ok_or_else(|| SpecError::NoSandbox {
        container: at.id.to_owned(),
        namespace: name,
    })?;
    Ok(PathBuf::from(format!("/proc/{pid}/ns/{name}")))
}

#[cfg(test)]
mod tests;
