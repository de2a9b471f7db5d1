//! The management of a pod outside the engine, beside the task API: `rust-kata` can inspect the
//! pod, run processes in it and send signals; only the pod's manager makes other changes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use protos::management_ttrpc::{Engine, create_engine, create_management};
use runtime::Pod;
use runtime::engine::foreign::owner::ForeignOwner;
use runtime::engine::wire;
use tokio::sync::watch;
use ttrpc::asynchronous::{self, MethodHandler, TtrpcContext};

use super::service::Service;
use super::{attach, rpc_status, server};

/// Serves the clients of a pod that this process owns, until the process ends. The sockets are
/// in the pod's directory, and are removed with it.
pub(crate) async fn serve_foreign(pod: &Arc<Pod>, address: &Path) -> crate::error::Result<()> {
    let listener = server::listen(address)?;
    let attachments = server::listen(&wire::attach::address_of(address))?;
    let owner = ForeignOwner::new(pod.clone());
    let mut server = server::start(listener, services(&owner)).await?;
    let open = Arc::new(watch::Sender::new(0));
    let attachments = server::non_blocking(attachments)?;
    tokio::spawn(async move {
        attach::listen(owner, attachments, open).await;
        // It serves until the end of the pod.
        let _ = server.shutdown().await;
    });
    Ok(())
}

/// `Management`, and the refusal of each call of `Engine`, also under the name `Management`,
/// where clients of earlier builds have these calls.
fn services(owner: &Arc<ForeignOwner>) -> HashMap<String, asynchronous::Service> {
    let mut services = create_management(Arc::new(Service(owner.clone())));
    let engine = || {
        create_engine(Arc::new(Methods))
            .into_iter()
            .map(|(name, mut service)| {
                for method in service.methods.values_mut() {
                    *method = Box::new(Refusal(owner.clone()));
                }
                (name, service)
            })
    };
    for management in services.values_mut() {
        let methods = engine().flat_map(|(_, engine)| engine.methods);
        management.methods.extend(methods);
    }
    services.extend(engine());
    services
}

/// Lists the calls of `Engine`.
struct Methods;

impl Engine for Methods {}

/// The answer to a call that only the pod's manager may make.
struct Refusal(Arc<ForeignOwner>);

#[async_trait]
impl MethodHandler for Refusal {
    async fn handler(&self, _: TtrpcContext, _: ttrpc::Request) -> ttrpc::Result<ttrpc::Response> {
        Ok(ttrpc::Response {
            status: Some(rpc_status(&self.0.refusal())).into(),
            ..Default::default()
        })
    }
}
