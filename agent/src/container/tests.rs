//! Ids, the notify socket, and processes that a played helper starts.

use super::*;
use crate::launch::faults::Fault;
use crate::launch::helper::Done;
use crate::launch::testing::{played_helper, played_spawner};

#[test]
fn ids_are_file_names() {
    check_id("a-b_c.d+e9").unwrap();
    let long = "x".repeat(200);
    for bad in ["", ".", "..", "a/b", "a b", "ä", &long] {
        let refused = check_id(bad);
        assert!(matches!(refused, Err(Error::InvalidValue { .. })), "{bad}");
    }
}

#[test]
fn a_long_path_to_the_notify_socket_is_no_problem() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(120));
    fs::create_dir(&deep).unwrap();
    let handle = fs::File::open(&deep).unwrap();
    let bind = format!("/proc/self/fd/{}/notify.sock", handle.as_raw_fd());
    let listener = std::os::unix::net::UnixListener::bind(bind).unwrap();
    notify(&deep.join("notify.sock")).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert_eq!(text, "start container");
}

/// A container whose helpers are played through the other end.
fn served(poststart: &[&str]) -> (Arc<Container>, std::os::fd::OwnedFd, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut container = testing::created("c", &Cgroup::within(folder.path()));
    let (spawner, requests) = played_spawner();
    let inner = Arc::get_mut(&mut container).unwrap();
    inner.environment.spawner = Arc::new(spawner);
    let hook = |path: &&str| oci_spec::runtime::HookBuilder::default().path(path).build();
    inner.poststart = poststart.iter().map(|path| hook(path).unwrap()).collect();
    (container, requests, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hooks_are_run_by_a_helper_if_there_are_any() {
    let (container, requests, _folder) = served(&["/started"]);
    container.run_hooks(&[]).await.unwrap();
    let helper = played_helper(
        requests.try_clone().unwrap(),
        Some(Ok(Done { pid: 0 })),
        None,
    );
    container.run_hooks(&container.poststart).await.unwrap();
    assert_eq!(helper.join().unwrap().0, "hooks");
    let fault = Fault::invalid("it failed");
    let helper = played_helper(requests, Some(Err(fault)), None);
    let failed = container.run_hooks(&container.poststart).await.unwrap_err();
    assert!(matches!(&failed, Error::Fault { message, .. } if message == "it failed"));
    helper.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[allow(clippy::await_holding_lock)] // the test has a thread of its own
async fn a_started_process_is_known_by_its_pid_and_its_end_stops_the_container() {
    let _children = crate::guest::reaper::children();
    let mut child = std::process::Command::new("/bin/cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    let (container, requests, _folder) = served(&[]);
    *lock(&container.status) = Status::Running;
    let request = Request::Create {
        id: "c".into(),
        folder: "/f".into(),
        state: "/s".into(),
        terminal: false,
    };
    let helper = played_helper(requests.try_clone().unwrap(), Some(Ok(Done { pid })), None);
    let init = container.init.clone();
    let started = container.start_process(init.clone(), &request, false).await;
    assert_eq!((started.unwrap(), init.pid()), (pid, Some(pid)));
    assert_eq!(helper.join().unwrap().1, [0, 1, 2]);
    // Nobody watches for children here: the watch of a reaper that is gone ends.
    assert!(!init.is_over());
    child.kill().unwrap();
    child.wait().unwrap();

    // An exec without its terminal has not started.
    let exec = Arc::new(Process::new("c", "e", Connections::default()));
    let helper = played_helper(
        requests,
        Some(Ok(Done {
            pid: std::process::id() as i32,
        })),
        None,
    );
    let without = container.start_process(exec.clone(), &request, true).await;
    assert!(matches!(without, Err(Error::NoTerminal)));
    assert!(exec.is_over());
    helper.join().unwrap();
}
