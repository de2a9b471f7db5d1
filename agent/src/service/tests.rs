//! What the calls answer that start nothing.

use agent_ttrpc::Agent;
use protos::agent::*;
use ttrpc::Code;

use super::*;
use crate::cgroup::Cgroup;
use crate::container::testing::{Program, RealCgroup, created, environment};

fn service() -> Service {
    Service {
        pod: Arc::new(Pod::new(environment())),
        destroyed: Arc::new(Notify::new()),
    }
}

fn context() -> TtrpcContext {
    TtrpcContext {
        mh: Default::default(),
        metadata: Default::default(),
        timeout_nano: 0,
        connection_data: Default::default(),
    }
}

fn code<T: std::fmt::Debug>(reply: Reply<T>) -> Code {
    match reply.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn container(id: &str) -> ContainerRequest {
    ContainerRequest {
        container_id: id.into(),
        ..Default::default()
    }
}

fn process(id: &str, exec: &str) -> ProcessRequest {
    ProcessRequest {
        container_id: id.into(),
        exec_id: exec.into(),
        ..Default::default()
    }
}

/// The codes of all calls that name a container.
async fn codes(service: &Service, id: &str) -> Vec<Code> {
    let (c, container_id) = (&context(), id.to_owned());
    let update = UpdateContainerRequest {
        container_id: container_id.clone(),
        resources: b"{}".into(),
        ..Default::default()
    };
    let exec = ExecProcessRequest {
        container_id: container_id.clone(),
        exec_id: "e".into(),
        ..Default::default()
    };
    let signal = SignalProcessRequest {
        container_id: container_id.clone(),
        signal: 15,
        ..Default::default()
    };
    let resize = ResizePtyRequest {
        container_id,
        ..Default::default()
    };
    vec![
        code(service.start_container(c, container(id)).await),
        code(service.remove_container(c, container(id)).await),
        code(service.update_container(c, update).await),
        code(service.pause_container(c, container(id)).await),
        code(service.resume_container(c, container(id)).await),
        code(service.stats(c, container(id)).await),
        code(service.list_processes(c, container(id)).await),
        code(service.exec_process(c, exec).await),
        code(service.remove_process(c, process(id, "e")).await),
        code(service.signal_process(c, signal).await),
        code(service.wait_process(c, process(id, "")).await),
        code(service.resize_pty(c, resize).await),
    ]
}

#[tokio::test]
async fn a_container_that_is_not_there_is_not_found_by_any_call() {
    let service = service();
    assert_eq!(codes(&service, "c").await, [Code::NOT_FOUND; 12]);
    service.pod.reserve("c").unwrap();
    assert_eq!(codes(&service, "c").await, [Code::FAILED_PRECONDITION; 12]);
    let again = service.pod.reserve("c").unwrap_err();
    assert!(matches!(again, Error::ContainerExists(_)));
    service.pod.finish_create("c", None);
    service.pod.reserve("c").unwrap();
    service.pod.forget("c");
    assert_eq!(codes(&service, "c").await, [Code::NOT_FOUND; 12]);
}

#[tokio::test]
async fn a_container_that_cannot_be_created_leaves_its_name() {
    let service = service();
    let create = |id: &str| CreateContainerRequest {
        container_id: id.into(),
        spec: b"{".into(),
        ..Default::default()
    };
    for _ in 0..2 {
        let failed = service.create_container(&context(), create("c")).await;
        assert_eq!(code(failed), Code::INVALID_ARGUMENT);
    }
    let failed = service.create_container(&context(), create("../c")).await;
    assert_eq!(code(failed), Code::INVALID_ARGUMENT);
    service.pod.reserve("c").unwrap();
    let failed = service.create_container(&context(), create("c")).await;
    assert_eq!(code(failed), Code::ALREADY_EXISTS);
}

#[allow(clippy::await_holding_lock)] // the test has a thread of its own
#[tokio::test]
async fn a_running_container_is_asked_and_signalled() {
    let cgroup = test_support::require!(RealCgroup::new("service"));
    let (service, c) = (service(), &context());
    let made = created("c", &cgroup.0);
    service.pod.finish_create("c", Some(made.clone()));
    let oom = crate::cgroup::oom::OomWatch::idle("c", &cgroup.0, &service.pod.environment.events);
    let program = Program::run(&made.init, &oom, Some(&cgroup));

    let listed = service.list_processes(c, container("c")).await.unwrap();
    let listed: Vec<_> = listed.processes.iter().map(|p| (p.pid, p.parent)).collect();
    assert_eq!(listed, [(program.pid as u32, std::process::id())]);
    let stats = service.stats(c, container("c")).await.unwrap();
    assert!(stats.cpu.is_some() && stats.memory.is_some() && stats.pids.is_some());
    let signal = |exec: &str, signal, all| SignalProcessRequest {
        container_id: "c".into(),
        exec_id: exec.into(),
        signal,
        all,
        ..Default::default()
    };
    let all_of_an_exec = service.signal_process(c, signal("e", 15, true)).await;
    assert_eq!(code(all_of_an_exec), Code::INVALID_ARGUMENT);
    let unknown = service.signal_process(c, signal("e", 15, false)).await;
    assert_eq!(code(unknown), Code::NOT_FOUND);
    let no_signal = service.signal_process(c, signal("", 99, true)).await;
    assert_eq!(code(no_signal), Code::INVALID_ARGUMENT);
    let resize = ResizePtyRequest {
        container_id: "c".into(),
        ..Default::default()
    };
    let no_terminal = service.resize_pty(c, resize).await;
    assert_eq!(code(no_terminal), Code::FAILED_PRECONDITION);
    service
        .signal_process(c, signal("", 10, false))
        .await
        .unwrap();
    let ended = service.wait_process(c, process("c", "")).await.unwrap();
    assert_eq!((ended.exit_status, ended.oom_killed), (138, false));

    service.destroy_pod(c, Empty::new()).await.unwrap();
    assert_eq!(codes(&service, "c").await, [Code::NOT_FOUND; 12]);
    service.destroyed.notified().await;
    assert!(!cgroup_exists(&cgroup));
}

fn cgroup_exists(cgroup: &RealCgroup) -> bool {
    cgroup.0.processes().is_ok_and(|pids| !pids.is_empty())
}

#[tokio::test]
async fn events_are_handed_out_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (service, cgroup) = (service(), Cgroup::within(folder.path()));
    let events = &service.pod.environment.events;
    std::fs::write(folder.path().join("memory.events"), "oom_kill 1\n").unwrap();
    for id in ["a", "b"] {
        let watch = crate::cgroup::oom::OomWatch::idle(id, &cgroup, events);
        assert_eq!((watch.check(), watch.check()), (1, 1));
    }
    for id in ["a", "b"] {
        let event = service.next_event(&context(), Empty::new()).await.unwrap();
        assert_eq!(event.oom().container_id, id);
    }
}

#[tokio::test]
async fn a_task_that_panics_is_an_internal_error() {
    let panicked = change(async { panic!("on purpose") });
    let reply: Reply<()> = reply("Call", "c", panicked.await);
    assert_eq!(code(reply), Code::INTERNAL);
    assert_eq!(change(async { Ok(7) }).await.unwrap(), 7);
}
