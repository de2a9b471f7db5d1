//! Owners that end while they are asked, that cannot be started, or whose streams are gone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ttrpc::Code;

use super::*;
use crate::engine::handle::spawn::start_owner_by;
use crate::engine::wire::errors::to_results;
use crate::error::OwnerError;

fn done() -> api::Results {
    to_results(Outcome {
        done: names(&["a"]),
        ..Outcome::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ending_owner_did_not_do_is_done_to_the_files() {
    for by_death in [false, true] {
        let lab = Lab::new(&["a"]).await;
        lab.put_ended("a", 3);
        let owner = lab.owned().await;
        if by_death {
            owner.die_at("stop");
        } else {
            owner.leave_at("stop");
        }
        let outcome = lab.pod.stop(&names(&["a"]), None).await.unwrap();
        assert_eq!(parts(outcome), (vec![], names(&["a"]), vec![]));
        assert_eq!(owner.heard(), [r#"stop containers: "a""#]);
        assert!(lab.saved("a").stopped_by_user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_repeated_to_the_next_owner() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    owner.refuse("pause", Code::ABORTED);
    owner.answer("pause", &done());
    let outcome = lab.pod.pause(&names(&["a"])).await.unwrap();
    assert_eq!(outcome.done, ["a"]);
    assert_eq!(owner.heard(), [r#"pause containers: "a""#; 2]);
    // One that needs an owner, and would start one.
    owner.refuse("init", Code::ABORTED);
    owner.answer("init", &done());
    let outcome = lab.pod.init(&names(&["a"])).await.unwrap();
    assert_eq!(outcome.done, ["a"]);
    assert_eq!(owner.heard(), [r#"init containers: "a""#; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_repeated_only_if_nothing_of_it_was_done() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    owner.refuse("batch", Code::ABORTED);
    lab.pod.batch(&[]).await.unwrap();
    assert_eq!(owner.heard(), ["batch"; 2]);
    owner.die_at("batch");
    let gone = lab.pod.batch(&[]).await.unwrap_err();
    assert!(matches!(gone, Error::OwnerGone(_)), "{gone:?}");
    assert_eq!(owner.heard(), ["batch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_owner_and_has_the_code_on_disk() {
    let lab = Lab::new(&["a"]).await;
    lab.put_ended("a", 3);
    let owner = lab.owned().await;
    owner.die_at("wait");
    assert_eq!(lab.pod.wait("a").await.unwrap(), 3);
    assert_eq!(owner.heard(), [r#"wait container: "a""#]);
    // Another owner is there: it may run again.
    let owner = lab.owned().await;
    owner.refuse("wait", Code::UNAVAILABLE);
    let ended = api::WaitResponse {
        exit_code: 4,
        ..Default::default()
    };
    owner.answer("wait", &ended);
    assert_eq!(lab.pod.wait("a").await.unwrap(), 4);
    assert_eq!(owner.heard().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_vm_is_an_error_if_no_owner_can_be_started() {
    let lab = Lab::new(&["a"]).await;
    let a = names(&["a"]);
    // Beside the tests there is no `rust-kata`.
    for error in [
        lab.pod.init(&a).await.unwrap_err(),
        lab.pod.start(&a, false).await.unwrap_err(),
        lab.pod.restart(&a, None).await.unwrap_err(),
        lab.pod.batch(&[]).await.unwrap_err(),
    ] {
        let Error::Config(crate::error::ConfigError::NotInstalled { program, beside }) = error
        else {
            panic!("{error:?}");
        };
        let exe = std::env::current_exe().unwrap();
        assert_eq!(program, exe.with_file_name("rust-kata"));
        assert_eq!(beside, exe);
    }
}

/// Starts a script as the owner.
fn start(lab: &Lab, script: &str) -> Result<()> {
    let program = lab.root.path().join("rust-kata");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // Another thread that forks may have it open for writing still.
    loop {
        match start_owner_by(&program, &lab.engine, lab.pod.paths()) {
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::ExecutableFileBusy =>
            {
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

#[tokio::test]
async fn an_owner_says_that_it_serves_or_why_it_does_not() {
    let lab = Lab::new(&[]).await;
    start(&lab, "echo ready").unwrap();
    start(&lab, "echo owned by another; exit 1").unwrap();
    let exited = start(&lab, "exit 3").unwrap_err();
    let Error::Owner(OwnerError::Exited { pod, status }) = exited else {
        panic!("{exited:?}");
    };
    assert_eq!((&*pod, status.code()), ("web", Some(3)));
    let problem = start(&lab, "echo ' no kernel '; exit 1").unwrap_err();
    assert!(
        matches!(&problem, Error::Remote { kind: ErrorKind::Internal, message } if message == "no kernel"),
        "{problem:?}"
    );
}

#[tokio::test]
async fn an_owner_gets_its_pod_and_nothing_of_its_starter() {
    let lab = Lab::new(&[]).await;
    let out = lab.root.path().join("out");
    // A descriptor that the starter has left open.
    let secret = lab.root.path().join("secret");
    let open = fs::File::create(&secret).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "exec 9>{}; echo \"$@\" >&9; pwd >&9; cut -d' ' -f6 /proc/self/stat >&9; echo $$ >&9; \
         for fd in /proc/$$/fd/*; do echo ${{fd##*/}} $(readlink $fd) >&9; done; echo ready",
        out.display()
    );
    start(&lab, &script).unwrap();
    let said = fs::read_to_string(&out).unwrap();
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("own local web"));
    assert_eq!(lines.next(), Some("/"));
    let session = lines.next().unwrap();
    assert_eq!(lines.next(), Some(session), "it has a session of its own");
    let fds: Vec<_> = lines.map(|line| line.split_once(' ').unwrap()).collect();
    let target = |number: &str| fds.iter().find(|(fd, _)| *fd == number).unwrap().1;
    assert_eq!((target("0"), target("2")), ("/dev/null", "/dev/null"));
    assert!(target("1").starts_with("pipe:"), "{fds:?}");
    assert!(
        fds.iter().all(|(_, target)| Path::new(target) != secret),
        "{fds:?}"
    );
    drop(open);

    let engine = Engine::new(lab.engine.config().clone(), Some(Path::new("/x.toml"))).unwrap();
    let script = format!("echo \"$@\" > {}; echo ready", out.display());
    start(&lab, &script).unwrap();
    let program = lab.root.path().join("rust-kata");
    start_owner_by(&program, &engine, lab.pod.paths()).unwrap();
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "--config /x.toml own local web\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_connected_to_an_owner_that_is_there() {
    let lab = Lab::new(&["a"]).await;
    assert!(lab.pod.attachment(false).await.unwrap().is_none());
    assert!(
        lab.pod.attachment(true).await.is_err(),
        "none can be started"
    );
    let owner = lab.owned().await;
    for start in [false, true] {
        assert!(lab.pod.attachment(start).await.unwrap().is_some());
    }
    // It takes no more attachments, and ends.
    let address = lab.engine.owner_address(lab.pod.paths());
    fs::remove_file(crate::engine::wire::attach::address_of(&address)).unwrap();
    let (left, ()) = tokio::join!(lab.pod.attachment(false), async { owner.leave() });
    assert!(left.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_asked_while_it_is_there() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    assert!(lab.pod.owner().await.unwrap().is_some());
    assert!(lab.pod.ensure_owner().await.is_ok());
    owner.leave();
    assert!(lab.pod.owner().await.unwrap().is_none());
    assert!(lab.pod.ensure_owner().await.is_err());
}
