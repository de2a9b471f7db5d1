//! Creation of containers: complete, or without remains.

use std::os::unix::fs::symlink;

use ttrpc::Code;

use super::guest::Refusal;
use super::*;
use crate::host::mount::mounts_below;
use crate::stdio::Endpoint;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_there_on_both_sides_before_it_is_told_of() {
    let mut bed = require!(Bed::new().await);
    let config = bed.config("a");
    let bundle = config.bundle.clone();

    let pid = bed.pod.create_container(config).await.unwrap();

    assert_eq!(bed.guest.heard(), ["create_container a"]);
    let created = PodEvent::Created {
        container: "a".into(),
        pid,
    };
    assert_eq!(bed.event().await, created);
    let state = bed.pod.state("a", None).unwrap();
    assert_eq!(
        (state.status, state.pid, &state.bundle),
        (Status::Created, pid, &bundle)
    );
    assert!(
        pid != 0 && hypervisor::start_time(pid).is_ok(),
        "its pid is of a process"
    );
    let saved = bed.saved("a");
    assert_eq!((saved.init.status, saved.init.pid), (Status::Created, pid));
    assert_eq!(saved.guest_pid, 42);
    assert_eq!(bed.pod.container_ids(), ["a"]);
    // The root file system is shared with the guest.
    fs::write(bundle.join("rootfs/file"), "text").unwrap();
    let shown = fs::read(bed.pod.rootfs("a").join("file")).unwrap();
    assert_eq!(shown, b"text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_guest_refuses_leaves_nothing() {
    let mut bed = require!(Bed::new().await);
    bed.running("other").await;
    for (code, kind) in [
        (Code::FAILED_PRECONDITION, ErrorKind::FailedPrecondition),
        (Code::INVALID_ARGUMENT, ErrorKind::InvalidArgument),
        (Code::NOT_FOUND, ErrorKind::NotFound),
        (Code::UNIMPLEMENTED, ErrorKind::Unimplemented),
        (Code::ALREADY_EXISTS, ErrorKind::AlreadyExists),
        (Code::INTERNAL, ErrorKind::Internal),
        (Code::UNKNOWN, ErrorKind::Internal),
    ] {
        bed.guest.refuse("create_container", Refusal::Error(code));
        let config = bed.config("a");
        let refused = bed.pod.create_container(config).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        // The guest may have created it.
        let heard = bed.guest.heard();
        assert_eq!(
            heard,
            ["create_container a", "remove_container container_id: \"a\""]
        );
        bed.has_no_traces_of("a");
    }
    bed.guest.refuse("create_container", Refusal::Command(127));
    let config = bed.config("a");
    let refused = bed.pod.create_container(config).await.unwrap_err();
    assert!(
        matches!(refused, Error::Command { exit_code: 127, .. }),
        "{refused:?}"
    );
    bed.has_no_traces_of("a");
    // The id is free again, and the other container still runs.
    bed.guest.accept("create_container");
    bed.running("a").await;
    assert_eq!(bed.status("other", None), Status::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_cannot_do_does_not_get_to_the_guest() {
    let bed = require!(Bed::new().await);
    let mut bad_id = bed.config("a");
    bad_id.id = "../a".into();
    let mut no_bundle = bed.config("a");
    no_bundle.bundle = bed.root.path().join("absent");
    let mut no_root = bed.config("b");
    fs::remove_dir(no_root.bundle.join("rootfs")).unwrap();
    no_root.sandbox = true;
    let mut no_process = bed.config("a");
    no_process.spec.set_process(None);
    for (config, kind) in [
        (bad_id, ErrorKind::InvalidArgument),
        (no_process, ErrorKind::InvalidArgument),
        (no_bundle, ErrorKind::InvalidArgument),
        (no_root, ErrorKind::InvalidArgument),
    ] {
        let id = config.id.clone();
        let refused = bed.pod.create_container(config).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(bed.guest.heard().is_empty(), "{id}");
        assert!(bed.pod.is_empty(), "{id}");
    }
    assert!(!bed.pod.dir.containers().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_taken_until_its_container_is_removed() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let config = bed.config("a");
    let taken = bed.pod.create_container(config).await.unwrap_err();
    assert!(
        matches!(
            taken,
            Error::AlreadyExists {
                what: "container",
                ..
            }
        ),
        "{taken:?}"
    );
    assert!(bed.guest.heard().is_empty());
    assert_eq!(bed.status("a", None), Status::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_mounts_are_in_the_share_and_go_with_the_container() {
    let bed = require!(Bed::new().await);
    let source = bed.root.path().join("source");
    fs::create_dir(&source).unwrap();
    let mounts = json!({"mounts": [{
        "destination": "/data", "type": "bind", "source": source, "options": ["rbind"]
    }]});
    let mut config = bed.config("a");
    config.spec = spec(mounts);
    bed.pod.create_container(config).await.unwrap();
    fs::write(source.join("file"), "text").unwrap();
    let shared = bed.pod.dir.shared();
    assert_eq!(fs::read(shared.join("a/mounts/0/file")).unwrap(), b"text");
    assert_eq!(
        mounts_below(&shared).unwrap().len(),
        3,
        "itself, the root and the source"
    );

    bed.pod.delete("a", None).await.unwrap();

    assert_eq!(mounts_below(&shared).unwrap().len(), 1);
    bed.has_no_traces_of("a");
    assert_eq!(fs::read(source.join("file")).unwrap(), b"text");
    drop(bed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_takes_the_container_back() {
    let bed = require!(Bed::new().await);
    let absent = bed.root.path().join("absent");
    symlink("/nonexistent", &absent).unwrap();
    let mut config = bed.config("a");
    config.spec = spec(json!({"mounts": [{
        "destination": "/data", "type": "bind", "source": absent, "options": ["rbind"]
    }]}));
    bed.pod.create_container(config).await.unwrap_err();
    let heard = bed.guest.heard();
    assert!(
        !heard.iter().any(|call| call.starts_with("create")),
        "{heard:?}"
    );
    bed.has_no_traces_of("a");
    assert_eq!(mounts_below(&bed.pod.dir.shared()).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_fail_take_the_container_back() {
    let bed = require!(Bed::new().await);
    let mut config = bed.config("a");
    let failing = json!({"hooks": {"createRuntime": [{"path": "/bin/false"}]}});
    config.spec = spec(failing);
    bed.pod.create_container(config).await.unwrap_err();
    let heard = bed.guest.heard();
    assert_eq!(
        heard,
        ["create_container a", "remove_container container_id: \"a\""]
    );
    bed.has_no_traces_of("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_vm_ends_during_its_hooks_is_taken_back() {
    let bed = require!(Bed::new().await);
    let gate = bed.root.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut config = bed.config("a");
    let script = format!("read line < {}", gate.display());
    let waits = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    config.spec = spec(json!({"hooks": {"createRuntime": [waits]}}));
    let pod = bed.pod.clone();
    let creating = tokio::spawn(async move { pod.create_container(config).await });
    // The file is open as soon as the hook reads it.
    let opening = tokio::task::spawn_blocking(move || fs::File::create(gate));
    let mut gate = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    bed.guest.crash("gone");
    bed.pod.guest.gone().await;
    std::io::Write::write_all(&mut gate, b"\n").unwrap();
    let failed = creating.await.unwrap().unwrap_err();
    assert!(matches!(failed, Error::VmGone { .. }), "{failed:?}");
    bed.has_no_traces_of("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_end_cannot_be_opened_is_told_so() {
    let bed = require!(Bed::new().await);
    let mut config = bed.config("a");
    config.io.stdout = Endpoint::Path(bed.root.path().join("absent/fifo"));
    bed.pod.create_container(config).await.unwrap_err();
    bed.has_no_traces_of("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_others_while_one_is_made_ends_the_vm_if_that_fails() {
    let mut bed = require!(Bed::new().await);
    bed.running("other").await;
    bed.guest.refuse("create_container", Refusal::Silence);
    let (pod, config) = (bed.pod.clone(), bed.config("a"));
    let creating = tokio::spawn(async move { pod.create_container(config).await });
    bed.guest.has_heard("create_container a").await;
    bed.guest.end("other", "", 0);
    bed.ends("other", None, 0).await;
    assert!(bed.pod.guest.check().is_ok(), "one is being made");
    bed.guest.crash("gone");
    let failed = creating.await.unwrap().unwrap_err();
    assert!(matches!(failed, Error::VmGone { .. }), "{failed:?}");
    bed.has_no_traces_of("a");
}
