//! The one pod of a serving shim: the first Create makes it, and a Shutdown without containers
//! ends it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use oci_spec::runtime::Spec;
use runtime::{Config, ContainerConfig, Error, Pod, PodConfig, ProcessIo, Result, Runtime};
use tokio::sync::{OnceCell, oneshot, watch};
use tokio::time::sleep;

use crate::containerd::bundle;
use crate::containerd::events::Requests;
use crate::containerd::group::Group;
use crate::containerd::options;
use crate::containerd::proto;
use crate::containerd::publisher::{Publisher, Target};
use crate::manage;

/// How long after the last Delete a Shutdown may come.
const ASKED_AGAIN: Duration = Duration::from_secs(3);

/// What a serving shim knows from its start.
pub struct Settings {
    /// containerd's namespace.
    pub namespace: String,
    /// The pod's id.
    pub pod: String,
    /// The address of this shim.
    pub address: String,
    /// The configuration the client named.
    pub config: Option<PathBuf>,
    /// The receiver of events.
    pub target: Target,
}

/// The owner of the pod.
pub struct PodOwner {
    settings: Settings,
    requests: Arc<Requests>,
    pod: OnceCell<Arc<Pod>>,
    publisher: Mutex<Option<Publisher>>,
    creating: AtomicUsize,
    /// Whether a Shutdown came while there were containers.
    unwanted: AtomicBool,
    ended: watch::Sender<bool>,
}

/// Counts a running creation, until it ends or is dropped.
struct Creating<'a>(&'a AtomicUsize);

impl<'a> Creating<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl PodOwner {
    /// An owner without a pod yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            requests: Arc::default(),
            pod: OnceCell::new(),
            publisher: Mutex::default(),
            creating: AtomicUsize::new(0),
            unwanted: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        })
    }

    /// The pod, if it has been created. Never waits.
    pub fn pod(&self) -> Option<Arc<Pod>> {
        self.pod.get().cloned()
    }

    /// Whether there is neither a container nor a running creation.
    pub fn is_idle(&self) -> bool {
        let empty = self.pod.get().is_none_or(|pod| pod.is_empty());
        empty && self.creating.load(Ordering::Acquire) == 0
    }

    /// Resolves when there is nothing more to serve.
    pub async fn ended(&self) {
        // This cannot fail: the sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Creates a container for `caller`. If the caller goes away meanwhile (containerd was
    /// killed), the container would never be removed: so it is deleted at once, and with the
    /// last one the pod ends.
    pub async fn create_for(
        &self,
        request: CreateTaskRequest,
        io: ProcessIo,
        mut caller: oneshot::Sender<Result<u32>>,
    ) {
        let id = request.id.clone();
        let created = {
            let create = self.create(request, io);
            tokio::pin!(create);
            tokio::select! {
                created = &mut create => created,
                () = caller.closed() => match self.pod() {
                    // A half-created pod is undone after the runtime has stopped.
                    None => Err(self.ending()),
                    Some(_) => create.await,
                }
            }
        };
        let Err(created) = caller.send(created) else {
            return;
        };
        log::warn!("Container {id}: its creator has gone: it is taken back");
        if let (Ok(_), Some(pod)) = (created, self.pod())
            && let Err(error) = pod.delete(&id, None).await
        {
            log::error!("Container {id} could not be taken back: {error}");
        }
        if self.is_idle()
            && let Err(error) = self.shutdown().await
        {
            log::error!("The pod did not end well: {error}");
        }
    }

    /// Creates a container, and the pod before the first one. Returns the container's pid.
    async fn create(&self, request: CreateTaskRequest, io: ProcessIo) -> Result<u32> {
        let _creating = Creating::new(&self.creating);
        let first = self.requests.remember(&request);
        let id = request.id.clone();
        let result = tokio::select! {
            result = self.create_inner(request, io) => result,
            // What is half done is undone after the runtime has stopped.
            () = self.ended() => Err(self.ending()),
        };
        if first && result.is_err() {
            self.requests.forget(&id);
        }
        result
    }

    async fn create_inner(&self, request: CreateTaskRequest, io: ProcessIo) -> Result<u32> {
        let dir = PathBuf::from(&request.bundle);
        let spec = runtime::load_spec(&dir)?;
        let group = Group::of(spec.annotations().as_ref().unwrap_or(&HashMap::new()))?;
        if group.pod(&request.id) != self.settings.pod {
            let expected = format!("{:?}, the pod of this shim", self.settings.pod);
            return Err(Error::invalid("pod", group.pod(&request.id), expected));
        }
        // This check comes before a VM is started.
        runtime::check_host_namespaces(&spec, !matches!(group, Group::Member(_)))?;
        let pod = match group {
            Group::Member(_) => self
                .pod()
                .ok_or_else(|| Error::not_found("pod", &self.settings.pod))?,
            Group::Alone | Group::Sandbox => {
                let config = self.configuration(&request, &dir)?;
                let make = || self.create_pod(&spec, config.as_deref());
                self.pod.get_or_try_init(make).await?.clone()
            }
        };
        let config = ContainerConfig {
            id: request.id,
            spec,
            bundle: dir.clone(),
            rootfs: request.rootfs.iter().map(proto::mount).collect(),
            io,
            sandbox: !matches!(group, Group::Member(_)),
        };
        let pid = pod.create_container(config).await?;
        bundle::record_pid(&dir, pid);
        Ok(pid)
    }

    /// The configuration that the client gave with this call, or with `start`.
    fn configuration(&self, request: &CreateTaskRequest, bundle: &Path) -> Result<Option<PathBuf>> {
        let given =
            options::configuration(&request.options).map_err(Error::decode("runtime options"))?;
        let Some(given) = given else {
            return Ok(self.settings.config.clone());
        };
        let file = bundle::record_config(bundle, given);
        Ok(Some(file?))
    }

    async fn create_pod(&self, spec: &Spec, config: Option<&Path>) -> Result<Arc<Pod>> {
        if *self.ended.borrow() {
            return Err(self.ending());
        }
        let settings = &self.settings;
        let pod = PodConfig::from_spec(&settings.namespace, &settings.pod, &settings.address, spec);
        let runtime = Runtime::new(Config::load(config)?)?;
        let manage = runtime.management_of(&pod)?;
        let (pod, events) = runtime.create_pod(pod, None).await?;
        let publisher = Publisher::start(
            settings.target.clone(),
            settings.namespace.clone(),
            events,
            self.requests.clone(),
        );
        *self.publisher() = Some(publisher);
        // A failure of the socket for `rust-kata` does not fail the pod.
        if let Err(error) = manage::serve_foreign(&pod, &manage).await {
            log::warn!("`rust-kata` cannot enter the pod: {error}");
        }
        Ok(pod)
    }

    fn ending(&self) -> Error {
        Error::WrongState {
            what: "pod",
            id: self.settings.pod.clone(),
            operation: "create",
            state: "being shut down".into(),
        }
    }

    /// Ends the pod and the serving if no container is left. Does not wait for a pod that is
    /// still being created.
    pub async fn shutdown_if_unused(&self) -> Result<()> {
        match self.pod() {
            Some(pod) if !pod.is_empty() => {
                self.unwanted.store(true, Ordering::Release);
                Ok(())
            }
            Some(_) => self.shutdown().await,
            None => {
                self.ended.send_replace(true);
                Ok(())
            }
        }
    }

    /// Ends a pod whose last container was deleted after a Shutdown had come. containerd 2.0 to
    /// 2.3 does not send another Shutdown to shims of version 3; other clients do, and have
    /// [`ASKED_AGAIN`] for it.
    pub fn deleted(self: &Arc<Self>) {
        let done = |owner: &Self| {
            owner.unwanted.load(Ordering::Acquire)
                && owner.creating.load(Ordering::Acquire) == 0
                && owner.pod().is_some_and(|pod| pod.is_empty())
        };
        if !done(self) {
            return;
        }
        let owner = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = owner.ended() => return,
                () = sleep(ASKED_AGAIN) => {}
            }
            if done(&owner)
                && let Err(error) = owner.shutdown().await
            {
                log::error!("The pod did not end well: {error}");
            }
        });
    }

    /// Ends the pod and all containers in it.
    pub async fn shutdown(&self) -> Result<()> {
        let result = match self.pod() {
            Some(pod) => pod.shutdown().await,
            None => Ok(()),
        };
        self.ended.send_replace(true);
        result
    }

    /// Delivers the last events.
    pub async fn finish_events(&self) {
        let publisher = self.publisher().take();
        if let Some(publisher) = publisher {
            publisher.finish().await;
        }
    }

    fn publisher(&self) -> std::sync::MutexGuard<'_, Option<Publisher>> {
        self.publisher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
