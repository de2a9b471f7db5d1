//! A container while it runs: its limits, signals, memory pressure and queries.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ttrpc::Code;

use super::guest::Refusal;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_given_room_first_and_taken_back_if_refused() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let larger = br#"{"cpu": {"quota": 300000, "period": 100000}, "memory": {"limit": 209715200}}"#;
    bed.guest
        .refuse("update_container", Refusal::Error(Code::INTERNAL));
    bed.pod.update("a", larger).await.unwrap_err();
    let heard = bed.guest.heard();
    assert_eq!(heard[..2], ["plug_memory 256", "online_cpu_mem cpus: 3"]);
    assert!(heard[2].starts_with("update_container"), "{heard:?}");
    assert_eq!(heard[3..], ["plug_memory 0", "online_cpu_mem cpus: 1"]);

    bed.guest.accept("update_container");
    bed.pod.update("a", larger).await.unwrap();
    let heard = bed.guest.heard();
    assert_eq!(heard.len(), 3, "{heard:?}");
    let smaller = br#"{"cpu": {"quota": 100000, "period": 100000}}"#;
    bed.pod.update("a", smaller).await.unwrap();
    let heard = bed.guest.heard();
    assert!(heard[0].starts_with("update_container"), "{heard:?}");
    assert_eq!(heard[1..], ["online_cpu_mem cpus: 1"]);

    // If the guest plugs less memory than requested, the limit is not raised.
    *crate::sync::lock(&bed.guest.plugs) = Some(300);
    let refused = bed
        .pod
        .update("a", br#"{"memory": {"limit": 524288000}}"#)
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Internal);
    let heard = bed.guest.heard();
    assert!(
        heard.iter().all(|call| call.starts_with("plug_memory")),
        "{heard:?}"
    );

    let bad = bed.pod.update("a", b"{").await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidArgument);
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    let late = bed.pod.update("a", smaller).await.unwrap_err();
    assert!(
        matches!(
            late,
            Error::WrongState {
                operation: "update",
                ..
            }
        ),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_pressure_is_told_of_once_and_before_the_end() {
    let mut bed = require!(Bed::new().await);
    let mut config = bed.config("a");
    let cri_o = json!({"annotations": {"io.kubernetes.cri-o.ContainerType": "container"}});
    config.spec = spec(cri_o);
    let told = config.bundle.join("oom");
    bed.pod.create_container(config).await.unwrap();
    bed.pod.start("a").await.unwrap();
    bed.event().await;
    bed.event().await;
    let oom = |container: &str| {
        let mut event = api::Event::new();
        event.set_oom(api::OomEvent {
            container_id: container.into(),
            ..Default::default()
        });
        event
    };
    for event in [oom("other"), api::Event::new(), oom("a"), oom("a")] {
        bed.guest.send_event(event);
    }
    assert_eq!(
        bed.event().await,
        PodEvent::Oom {
            container: "a".into()
        }
    );
    assert!(told.exists(), "CRI-O looks for it");
    let answer = api::WaitProcessResponse {
        exit_status: 137,
        oom_killed: true,
        ..Default::default()
    };
    bed.guest.end_with("a", "", answer);
    bed.ends("a", None, 137).await;

    let mut bed = require!(Bed::new().await);
    bed.running("b").await;
    let answer = api::WaitProcessResponse {
        exit_status: 137,
        oom_killed: true,
        ..Default::default()
    };
    bed.guest.end_with("b", "", answer);
    assert_eq!(
        bed.event().await,
        PodEvent::Oom {
            container: "b".into()
        }
    );
    bed.ends("b", None, 137).await;
    assert!(!bed.root.path().join("bundles/b/oom").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_to_a_pid_proxy_are_the_processs() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let pid = Pid::from_raw(bed.pod.state("a", None).unwrap().pid as i32);
    kill(pid, Signal::SIGUSR1).unwrap();
    let heard = "signal_process container_id: \"a\" signal: 10";
    bed.guest.has_heard(heard).await;
    // A SIGKILL to the proxy is meant for the process.
    kill(pid, Signal::SIGKILL).unwrap();
    bed.ends("a", None, 137).await;
    let heard = bed.guest.heard();
    assert_eq!(
        heard[1], "signal_process container_id: \"a\" signal: 9",
        "{heard:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_the_guest_is_about_that_container() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.pod.stats("a").await.unwrap();
    bed.pod.forget_files().await.unwrap();
    let listed = bed.pod.processes("a").await.unwrap();
    assert_eq!(
        bed.guest.heard(),
        [
            "stats container_id: \"a\"",
            "forget_files",
            "list_processes a"
        ]
    );
    let command = &listed.processes[0].command;
    assert!(!command.contains(|c: char| c.is_control()), "{command:?}");
    for missing in [
        bed.pod.stats("x").await.unwrap_err(),
        bed.pod.processes("x").await.unwrap_err(),
        bed.pod.pids("x").unwrap_err(),
        bed.pod.wait("x", None).await.unwrap_err(),
        bed.pod.wait("a", Some("x")).await.unwrap_err(),
        bed.pod.start("x").await.unwrap_err(),
        bed.pod.pause("x").await.unwrap_err(),
        bed.pod.update("x", b"{}").await.unwrap_err(),
        bed.pod.close_stdin("x", None).await.unwrap_err(),
        bed.pod.delete("x", None).await.unwrap_err(),
    ] {
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    }
    assert!(bed.guest.heard().is_empty());
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    let late = bed.pod.stats("a").await.unwrap_err();
    assert!(
        matches!(
            late,
            Error::WrongState {
                operation: "measure",
                ..
            }
        ),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_joins_the_pid_namespace_of_a_sandbox_that_lives() {
    let mut bed = require!(Bed::new().await);
    let joining = |bed: &Bed, id: &str| {
        let mut config = bed.config(id);
        let mut all = namespaces(&[]);
        let pid = json!({"type": "pid", "path": "/proc/1/ns/pid"});
        all.as_array_mut().unwrap().insert(0, pid);
        config.spec = spec(json!({"linux": {"namespaces": all}}));
        config
    };
    let alone = bed.pod.create_container(joining(&bed, "a")).await;
    assert!(matches!(alone, Err(Error::Spec(_))), "{alone:?}");
    bed.running("sandbox").await;
    bed.pod.create_container(joining(&bed, "a")).await.unwrap();
    let seen = crate::sync::lock(&bed.guest.spec).take().unwrap();
    let seen = serde_json::to_value(seen).unwrap();
    // The pid of each init in the fake guest.
    assert_eq!(seen["linux"]["namespaces"][0]["path"], "/proc/42/ns/pid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pids_of_a_container_are_those_of_its_processes_that_live() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let process = serde_json::from_value(json!({
        "args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}
    }));
    let io = ProcessIo::default();
    bed.pod
        .add_exec("a", "x", process.unwrap(), io)
        .await
        .unwrap();
    let init = bed.pod.state("a", None).unwrap().pid;
    let of = |pid, exec: Option<&str>| PidInfo {
        pid,
        exec: exec.map(str::to_owned),
    };
    assert_eq!(
        bed.pod.pids("a").unwrap(),
        [of(init, None)],
        "it is not started"
    );
    let exec = bed.pod.start_exec("a", "x").await.unwrap();
    assert_eq!(
        bed.pod.pids("a").unwrap(),
        [of(init, None), of(exec, Some("x"))]
    );
    // Each has a session of its own (proc(5), field 6): it gets no signals of a terminal.
    for pid in [init, exec] {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert_eq!(stat.split(' ').nth(5), Some(&*pid.to_string()), "{stat}");
    }
    bed.guest.end("a", "x", 0);
    bed.pod.wait("a", Some("x")).await.unwrap();
    assert_eq!(bed.pod.pids("a").unwrap(), [of(init, None)]);
}
