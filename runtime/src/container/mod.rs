//! One container of a pod, as the pod's owner holds it. Its operations are in `pod`.

pub(crate) mod bundle;
pub(crate) mod config;
pub mod cri;
pub(crate) mod guest_spec;
pub(crate) mod hooks;
pub(crate) mod limits;
pub mod pid_proxy;
pub(crate) mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oci_spec::runtime::LinuxNamespaceType;

use crate::container::config::ContainerConfig;
use crate::container::cri::Dialect;
use crate::container::hooks::HostHooks;
use crate::container::limits::Limits;
use crate::container::process::Process;
use crate::error::{Error, Result};
use crate::events::{Events, PodEvent};
use crate::state::Status;
use crate::state_dir::lock::PodLock;
use crate::state_dir::paths::RunPaths;
use crate::state_dir::record::{ContainerRecord, ContainerRunState};
use crate::sync::lock;

/// A container of a pod that this process owns.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    /// The files of its pod.
    pod: RunPaths,
    events: Events,
    pub(crate) init: Arc<Process>,
    /// Whether its pid namespace ends with its init.
    pub(crate) own_pid_namespace: bool,
    pub(crate) hooks: HostHooks,
    pub(crate) limits: Mutex<Limits>,
    guest_pid: AtomicU32,
    oom: AtomicBool,
    /// The file by which CRI-O learns of an OOM kill; containerd gets an event.
    oom_file: Option<PathBuf>,
    /// Whether its init has ended, even if the exit is not reported yet.
    ended: AtomicBool,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Container {
    pub(crate) fn new(config: &ContainerConfig, pod: RunPaths, events: Events) -> Self {
        let spec = &config.spec;
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|l| l.resources().as_ref());
        let namespaces = linux.and_then(|l| l.namespaces().as_ref());
        let own_pid_namespace = namespaces
            .into_iter()
            .flatten()
            .any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none());
        Self {
            record: ContainerRecord {
                id: config.id.clone(),
                bundle: config.bundle.clone(),
                sandbox: config.sandbox,
                created: SystemTime::now(),
            },
            pod,
            events,
            init: Arc::new(Process::new(&config.id, None, &config.io)),
            own_pid_namespace,
            hooks: HostHooks::of(spec),
            limits: Mutex::new(Limits::of(resources)),
            guest_pid: AtomicU32::new(0),
            oom: AtomicBool::new(false),
            oom_file: spec
                .annotations()
                .as_ref()
                .and_then(Dialect::of)
                .filter(|dialect| dialect.is_cri_o())
                .map(|_| config.bundle.join("oom")),
            ended: AtomicBool::new(false),
            execs: Mutex::default(),
        }
    }

    /// Its limits; none once it has ended.
    pub(crate) fn limits(&self) -> Limits {
        if self.is_live() {
            *lock(&self.limits)
        } else {
            Limits::default()
        }
    }

    /// Whether it needs the VM.
    pub(crate) fn is_live(&self) -> bool {
        !self.ended.load(Ordering::SeqCst) && !self.init.status().is_stopped()
    }

    /// Marks that it no longer needs the VM. If two containers end at the same time, at least
    /// one of the callers sees that none is left.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// The init's pid in the guest; 0 before it is built.
    pub(crate) fn guest_pid(&self) -> u32 {
        self.guest_pid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_guest_pid(&self, pid: u32) {
        self.guest_pid.store(pid, Ordering::Relaxed);
    }

    /// Its init process, or one of its execs.
    pub(crate) fn process(&self, exec: Option<&str>) -> Result<Arc<Process>> {
        match exec {
            None => Ok(self.init.clone()),
            Some(id) => {
                let execs = lock(&self.execs);
                execs
                    .get(id)
                    .cloned()
                    .ok_or_else(|| Error::not_found("exec", id))
            }
        }
    }

    pub(crate) fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().cloned().collect()
    }

    /// Adds an exec. The id must be free.
    pub(crate) fn insert_exec(&self, id: &str, process: Arc<Process>) -> Result<()> {
        let mut execs = lock(&self.execs);
        if execs.contains_key(id) {
            return Err(Error::AlreadyExists {
                what: "exec",
                id: id.to_owned(),
            });
        }
        execs.insert(id.to_owned(), process);
        Ok(())
    }

    pub(crate) fn remove_exec(&self, id: &str) {
        lock(&self.execs).remove(id);
    }

    /// Reports memory pressure, once: before the exit that it leads to.
    pub(crate) fn report_oom(&self) {
        if !self.init.status().is_stopped() && !self.oom.swap(true, Ordering::Relaxed) {
            if let Some(path) = &self.oom_file
                && let Err(error) = std::fs::File::create(path)
            {
                log::warn!("Cannot create {}: {error}", path.display());
            }
            self.events.emit(PodEvent::Oom {
                container: self.record.id.clone(),
            });
        }
    }

    /// Writes the container's state file.
    pub(crate) fn save(&self) -> Result<()> {
        let _lock = PodLock::exclusive(&self.pod)?;
        let execs = lock(&self.execs);
        let state = ContainerRunState {
            init: self.init.record(),
            guest_pid: self.guest_pid(),
            execs: execs
                .iter()
                .map(|(id, p)| (id.clone(), p.record()))
                .collect(),
        };
        drop(execs);
        let path = self.pod.container(&self.record.id).join("state.json");
        crate::state_dir::write(&path, &state)
    }

    /// As [`Container::save`], but only logs a failure: the change has happened already and
    /// must be reported.
    pub(crate) fn save_or_warn(&self) {
        if let Err(e) = self.save() {
            log::warn!("Container {}: {e}", self.record.id);
        }
    }

    /// Waits, after the end of the VM, for the end of every process, and releases its streams
    /// and its pid proxy.
    pub(crate) async fn release_processes(&self) {
        for process in self.execs().into_iter().chain([self.init.clone()]) {
            if !matches!(process.status(), Status::Creating) && process.pid() != 0 {
                let _ = tokio::time::timeout(Duration::from_secs(2), process.ended()).await;
            }
            process.drop_stdio();
            process.drop_pid_proxy();
        }
    }
}
