//! The calls of a real owner whose VM does not run, and errors as clients receive them.

#![cfg(feature = "cli")]

use std::os::unix::fs::PermissionsExt;

use protos::management as api;
use protos::management_ttrpc::{Engine as EngineCalls, Management};
use runtime::engine::Engine;
use runtime::engine::owner::Owner;
use runtime::engine::records::definition::PodDefinition;
use runtime::{Config, ErrorKind};
use ttrpc::Code;
use ttrpc::asynchronous::TtrpcContext;

use super::service::Service;
use super::*;

/// An owner of the pod `p`, without containers.
fn owned() -> (tempfile::TempDir, Engine, Service<Owner>) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        root: dir.path().join("run"),
        data_root: dir.path().join("data"),
        ..Config::default()
    };
    let engine = Engine::new(config, None).unwrap();
    let pod = engine.create_pod(PodDefinition::new("local", "p")).unwrap();
    let address = engine.owner_address(pod.paths());
    let listen = || server::listen(&address);
    let (owner, _) = Owner::claim(&engine, pod.paths(), &address, listen).unwrap();
    (dir, engine, Service(owner))
}

fn context() -> TtrpcContext {
    TtrpcContext {
        mh: Default::default(),
        metadata: Default::default(),
        timeout_nano: 0,
        connection_data: Default::default(),
    }
}

fn code<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> Code {
    match answer.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_about_a_container_that_is_not_there_says_so() {
    let (_dir, _engine, owner) = owned();
    let c = &context();
    let (one, all) = (String::from("x"), vec![String::from("x")]);
    let containers = || api::ContainersRequest {
        containers: all.clone(),
        ..Default::default()
    };
    let container = || api::ContainerRequest {
        container: one.clone(),
        ..Default::default()
    };
    let stop = || api::StopRequest {
        containers: all.clone(),
        ..Default::default()
    };
    let kill = api::KillRequest {
        containers: all.clone(),
        signal: 15,
        ..Default::default()
    };
    let remove = api::RemoveRequest {
        containers: all.clone(),
        ..Default::default()
    };
    let update = api::UpdateRequest {
        container: one.clone(),
        resources: b"{}".into(),
        ..Default::default()
    };
    let mount = api::MountRequest {
        container: one.clone(),
        ..Default::default()
    };
    let unmount = api::UnmountRequest {
        container: one.clone(),
        ..Default::default()
    };
    let exec = api::CreateExecRequest {
        container: one.clone(),
        command: vec!["id".into()],
        ..Default::default()
    };
    let process = api::ProcessRequest {
        container: one.clone(),
        exec: "e".into(),
        ..Default::default()
    };
    let remove_exec = api::RemoveExecRequest {
        container: one.clone(),
        exec: "e".into(),
        ..Default::default()
    };
    let signal_exec = api::SignalExecRequest {
        container: one.clone(),
        exec: "e".into(),
        signal: 2,
        ..Default::default()
    };
    for (call, found) in [
        ("start", code(owner.start(c, containers()).await)),
        ("stop", code(owner.stop(c, stop()).await)),
        ("restart", code(owner.restart(c, stop()).await)),
        ("pause", code(owner.pause(c, containers()).await)),
        ("unpause", code(owner.unpause(c, containers()).await)),
        ("remove", code(owner.remove(c, remove).await)),
        ("adopt", code(owner.adopt(c, container()).await)),
        ("update", code(owner.update(c, update).await)),
        ("sync", code(owner.sync(c, containers()).await)),
        ("cleanup", code(owner.cleanup(c, containers()).await)),
        ("mount", code(owner.mount(c, mount).await)),
        ("unmount", code(owner.unmount(c, unmount).await)),
        ("kill", code(owner.kill(c, kill).await)),
        ("wait", code(owner.wait(c, container()).await)),
        ("stats", code(owner.stats(c, containers()).await)),
        ("processes", code(owner.processes(c, container()).await)),
        ("create_exec", code(owner.create_exec(c, exec).await)),
        ("start_exec", code(owner.start_exec(c, process).await)),
        ("remove_exec", code(owner.remove_exec(c, remove_exec).await)),
        ("signal_exec", code(owner.signal_exec(c, signal_exec).await)),
    ] {
        assert_eq!(found, Code::NOT_FOUND, "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_serves_what_needs_no_vm() {
    let (_dir, engine, owner) = owned();
    let c = &context();
    owner.status(c, api::Empty::new()).await.unwrap();
    owner.files_changed(c, api::Empty::new()).await.unwrap();
    let all = api::KillRequest {
        signal: 15,
        ..Default::default()
    };
    let none = owner.kill(c, all).await.unwrap();
    assert!(none.results.is_empty());
    let bad = api::UpdateRequest {
        container: "x".into(),
        resources: b"{".into(),
        ..Default::default()
    };
    assert_eq!(code(owner.update(c, bad).await), Code::INVALID_ARGUMENT);
    // A second owner is refused.
    let pod = engine.pod("local", "p").unwrap();
    let address = engine.owner_address(pod.paths());
    let again = Owner::claim(&engine, pod.paths(), &address, || Ok::<_, Error>(()));
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    let empty = api::StopRequest {
        if_empty: true,
        ..Default::default()
    };
    owner.shutdown(c, empty).await.unwrap();
}

#[test]
fn engine_and_management_have_each_others_calls() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (_dir, _engine, service) = owned();
    let services = owner::services(&service.0);
    let mut names: Vec<&str> = services.keys().map(String::as_str).collect();
    names.sort_unstable();
    let of = "rust_kata.management.v1";
    assert_eq!(names, [format!("{of}.Engine"), format!("{of}.Management")]);
    let calls = |name: &str| services[&format!("{of}.{name}")].methods.len();
    assert_eq!((calls("Engine"), calls("Management")), (16, 25));
}

#[test]
fn a_command_that_cannot_run_has_its_code_in_the_details() {
    let command = Error::Command {
        exit_code: 127,
        message: "no such command".into(),
    };
    let told = rpc_status(&command);
    assert_eq!(told.message, "no such command");
    let detail = &told.details[0];
    assert_eq!(detail.type_url, protos::COMMAND_FAILURE);
    assert_eq!((told.details.len(), &detail.value[..]), (1, &[127][..]));
    let other = Error::not_found("container", "x");
    assert_eq!(other.kind(), ErrorKind::NotFound);
    let ttrpc::Error::RpcStatus(told) = status(other) else {
        panic!("no status");
    };
    assert_eq!((told.code(), told.details.len()), (Code::NOT_FOUND, 0));
}

#[test]
fn sockets_are_for_root_alone_and_replace_those_of_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("made/socket");
    for _ in 0..2 {
        drop(server::listen(&address).unwrap());
    }
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&address), mode(address.parent().unwrap())),
        (0o600, 0o700)
    );
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let refused = server::listen(&folder).unwrap_err().to_string();
    assert!(refused.contains("folder"), "{refused}");
}
