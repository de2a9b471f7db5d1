//! The calls of the task API before there is a pod.

use std::path::Path;

use super::*;
use crate::containerd::owner::Settings;
use crate::containerd::publisher::Target;

fn service() -> (TaskService, Arc<PodOwner>) {
    let owner = PodOwner::new(Settings {
        namespace: "ns".into(),
        pod: "p".into(),
        address: "/a".into(),
        config: None,
        target: Target::Nobody,
    });
    (TaskService(owner.clone()), owner)
}

fn context() -> TtrpcContext {
    TtrpcContext {
        mh: Default::default(),
        metadata: Default::default(),
        timeout_nano: 0,
        connection_data: Default::default(),
    }
}

fn code<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_service_has_both_of_its_names() {
    let services = TaskService::services(service().1);
    let mut names: Vec<&String> = services.keys().collect();
    names.sort();
    assert_eq!(
        names,
        ["containerd.task.v2.Task", "containerd.task.v3.Task"]
    );
    let calls = |name: &str| {
        let mut calls: Vec<_> = services[name].methods.keys().cloned().collect();
        calls.sort();
        calls
    };
    assert_eq!(calls(names[0]), calls(names[1]));
    assert_eq!(calls(names[0]).len(), 17);
    assert_eq!((exec(""), exec("e")), (None, Some("e")));
}

#[tokio::test]
async fn no_container_is_found_before_the_pod_is_made() {
    let (s, owner) = service();
    let c = &context();
    assert!(owner.pod().is_none() && owner.is_idle());
    macro_rules! all {
        ($($call:ident($request:ident)),*) => {
            vec![$((stringify!($call), code(s.$call(c, $request {
                id: "c".into(),
                ..Default::default()
            }).await))),*]
        };
    }
    let answers = all!(
        state(StateRequest),
        start(StartRequest),
        delete(DeleteRequest),
        pids(PidsRequest),
        pause(PauseRequest),
        resume(ResumeRequest),
        kill(KillRequest),
        exec(ExecProcessRequest),
        resize_pty(ResizePtyRequest),
        close_io(CloseIORequest),
        update(UpdateTaskRequest),
        wait(WaitRequest),
        stats(StatsRequest),
        connect(ConnectRequest)
    );
    for (call, answer) in answers {
        let expected = (Code::NOT_FOUND, "container \"c\" not found".to_owned());
        assert_eq!(answer, expected, "{call}");
    }
    let checkpoint = s.checkpoint(c, CheckpointTaskRequest::default()).await;
    assert_eq!(code(checkpoint).0, Code::UNIMPLEMENTED);
}

fn bundle(spec: &serde_json::Value) -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
    bundle
}

/// All that a container must have of its own.
fn namespaces() -> serde_json::Value {
    let kinds = ["network", "ipc", "uts", "pid", "mount"];
    kinds
        .map(|kind| serde_json::json!({ "type": kind }))
        .into_iter()
        .collect()
}

fn create(id: &str, bundle: &Path) -> CreateTaskRequest {
    CreateTaskRequest {
        id: id.into(),
        bundle: text(bundle),
        ..CreateTaskRequest::default()
    }
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_and_forgotten() {
    let (s, owner) = service();
    let c = &context();
    let spec = |annotations| {
        serde_json::json!({
            "ociVersion": "1.0.2", "root": { "path": "rootfs" }, "annotations": annotations,
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["true"] },
            "linux": { "namespaces": namespaces() },
        })
    };
    let alone = bundle(&spec(serde_json::json!({})));
    let (kind, sandbox) = (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    );
    let member = bundle(&spec(
        serde_json::json!({ kind: "container", sandbox: "p" }),
    ));
    let mut restored = create("p", alone.path());
    restored.checkpoint = "/c".into();
    assert_eq!(code(s.create(c, restored).await).0, Code::UNIMPLEMENTED);
    let mut piped = create("p", alone.path());
    piped.stdout = "binary:///x".into();
    assert_eq!(code(s.create(c, piped).await).0, Code::INVALID_ARGUMENT);
    // The id is free again each time.
    for _ in 0..2 {
        let (code_, problem) = code(s.create(c, create("other", alone.path())).await);
        assert_eq!(code_, Code::INVALID_ARGUMENT);
        assert!(problem.contains("\"p\", the pod of this shim"), "{problem}");
    }
    let no_pod = code(s.create(c, create("c", member.path())).await);
    assert_eq!(no_pod, (Code::NOT_FOUND, "pod \"p\" not found".into()));
    assert!(owner.is_idle() && owner.pod().is_none());
}

#[tokio::test]
async fn a_shutdown_without_containers_ends_the_serving() {
    let (s, owner) = service();
    s.shutdown(&context(), ShutdownRequest::default())
        .await
        .unwrap();
    owner.ended().await;
    // From now on nothing is created.
    let spec = serde_json::json!({
        "ociVersion": "1.0.2", "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["true"] },
        "linux": { "namespaces": namespaces() },
    });
    let bundle = bundle(&spec);
    let (code_, problem) = code(s.create(&context(), create("p", bundle.path())).await);
    assert_eq!(code_, Code::FAILED_PRECONDITION);
    assert!(problem.contains("being shut down"), "{problem}");
    let (_, ended) = service();
    ended.shutdown().await.unwrap();
    ended.ended().await;
    ended.finish_events().await;
}
