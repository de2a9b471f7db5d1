//! Building a container in the VM and removing it from there: its bundle is made from its
//! definition each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type, Mount, Spec};

use super::{Owner, Tracked};
use crate::blocking::on_thread;
use crate::container::bundle;
use crate::container::config::ContainerConfig;
use crate::engine::owner::log::LogWriter;
use crate::engine::owner::streams::ProcessStreams;
use crate::engine::records::definition::{ContainerDefinition, Rootfs, SharedNamespace};
use crate::engine::records::limits::put_over;
use crate::engine::records::paths::{ContainerPaths, DataPaths};
use crate::engine::rootfs::Root;
use crate::engine::status::ContainerStatus;
use crate::engine::users;
use crate::engine::volume;
use crate::error::{Context, Error, Result};
use crate::pod::Pod;
use crate::state_dir::private;
use crate::sync::lock;

impl Owner {
    /// Builds a container in the VM up to the point where its init waits.
    pub(super) async fn build(&self, pod: &Arc<Pod>, container: &Arc<Tracked>) -> Result<()> {
        let definition = &container.definition;
        let name = container.name();
        let paths = self.paths.container(name)?;
        let bundle = paths.bundle();
        private::make(&bundle)?;
        let volumes = self.volumes(container, &paths).await?;
        let root = Root::of(&definition.rootfs, &paths)?;
        let spec = self.spec(container, &root, volumes)?;
        if spec.hooks().is_some() {
            write_config(&bundle, &spec)?;
        }

        let log = LogWriter::open(&paths.log(), definition.log_size_max).on("open", paths.log())?;
        let stdin = definition.stdin_open;
        let (mut io, streams) = ProcessStreams::new(definition.terminal(), stdin, Some(log));
        io.descriptors = std::mem::take(&mut *lock(&container.passed_fds));
        // Intent: from here on it may be in the VM.
        self.change(container, |state| {
            state.status = ContainerStatus::Initialized;
            state.stopped_by_user = false;
            state.problem = None;
        })?;
        *lock(&container.streams) = Some(streams);
        let created = pod
            .create_container(ContainerConfig {
                id: name.to_owned(),
                spec,
                bundle,
                rootfs: root.mounts,
                io,
                sandbox: false,
            })
            .await;
        match created {
            Ok(pid) => {
                self.change(container, |state| state.pid = pid)?;
                self.append_container_event(container, |event| event.action("init"));
                Ok(())
            }
            Err(e) => {
                self.out_of_vm(container, &e);
                Err(e)
            }
        }
    }

    /// Removes a container that could not be started from the VM.
    pub(super) async fn unbuild(&self, pod: &Arc<Pod>, container: &Arc<Tracked>, why: &Error) {
        if !container.now().status.is_live() {
            return;
        }
        if let Err(e) = pod.delete(container.name(), None).await {
            ::log::debug!("Container {}: {e}", container.name());
        }
        self.out_of_vm(container, why);
    }

    /// Records that the container is not in the VM and has not run.
    fn out_of_vm(&self, container: &Tracked, why: &Error) {
        *lock(&container.streams) = None;
        self.record_change(container, |state| {
            let before = state.finished.is_some() || state.exit_code.is_some();
            state.status = if before {
                ContainerStatus::Exited
            } else {
                ContainerStatus::Configured
            };
            state.pid = 0;
            state.problem = Some(why.to_string());
        });
    }

    /// The mounts of its volumes. New volumes are filled.
    async fn volumes(&self, container: &Tracked, paths: &ContainerPaths) -> Result<Vec<Mount>> {
        let volumes = self.engine.volumes();
        let (definition, paths) = (container.definition.clone(), paths.clone());
        let state = container.now();
        let owner = match &definition.user {
            None => (0, 0),
            Some(user) => users::look_up(&root_layers(&self.paths, &definition)?, user)?.ids(),
        };
        let mount = move || volume::mounts(&volumes, &definition, &paths, &state, owner);
        on_thread("filling volumes", mount).await?
    }

    /// The spec for the VM: the definition's, adapted to the pod.
    fn spec(&self, container: &Tracked, root: &Root, volumes: Vec<Mount>) -> Result<Spec> {
        let definition = &container.definition;
        let mut spec = definition.spec.clone();
        let pod = &self.definition;
        spec.set_hostname(Some(pod.host_name()));
        if let Some(root_of_spec) = spec.root_mut() {
            root_of_spec.set_path(root.directory.clone());
        } else {
            let mut root_of_spec = oci_spec::runtime::Root::default();
            root_of_spec.set_path(root.directory.clone());
            root_of_spec.set_readonly(Some(false));
            spec.set_root(Some(root_of_spec));
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.extend(volumes);
        // A mount within another one comes after it.
        mounts.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(mounts));
        if let Some(user) = &definition.user {
            let found = users::look_up(&root_layers(&self.paths, definition)?, user)?;
            if let Some(process) = spec.process_mut() {
                users::apply(process, &found);
            }
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_namespaces(Some(self.namespaces()));
            if let Some(limits) = &container.now().limits {
                let mut resources = linux.resources().clone().unwrap_or_default();
                put_over(&mut resources, limits);
                linux.set_resources(Some(resources));
            }
            linux.set_cgroups_path(Some(Path::new("/").join(&pod.name).join(&definition.name)));
        }
        Ok(spec)
    }

    /// The namespaces of a container. A shared one is joined by its path, at which the guest
    /// holds the pod's.
    fn namespaces(&self) -> Vec<LinuxNamespace> {
        let share = &self.definition.share;
        let namespace = |kind: Type, shared: bool| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace.set_path(shared.then(|| PathBuf::from("/pod")));
            namespace
        };
        vec![
            namespace(Type::Network, share.contains(&SharedNamespace::Net)),
            namespace(Type::Ipc, share.contains(&SharedNamespace::Ipc)),
            namespace(Type::Uts, share.contains(&SharedNamespace::Uts)),
            namespace(Type::Pid, share.contains(&SharedNamespace::Pid)),
            namespace(Type::Mount, false),
            namespace(Type::Cgroup, false),
        ]
    }
}

/// Writes the spec into the bundle for hooks, which look it up there (OCI runtime
/// specification, "State": `bundle`). Nothing else reads it.
fn write_config(bundle: &Path, spec: &Spec) -> Result<()> {
    let path = bundle.join(bundle::CONFIG);
    let text = serde_json::to_vec_pretty(spec).map_err(Error::encode("the OCI spec"))?;
    fs::write(&path, text).on("write", &path)
}

/// The directories of a container's root file system, uppermost first.
pub(super) fn root_layers(
    paths: &DataPaths,
    definition: &ContainerDefinition,
) -> Result<Vec<PathBuf>> {
    match &definition.rootfs {
        Rootfs::Directory(path) => Ok(vec![path.clone()]),
        Rootfs::Image { layers, .. } => {
            let mut stack = vec![paths.container(&definition.name)?.upper()];
            stack.extend(layers.iter().rev().cloned());
            Ok(stack)
        }
    }
}
