//! A process of a pod dies or hangs: containerd gets the exit, and everything is cleaned up.

use std::fs::File;
use std::time::{Duration, Instant};

use harness::bed::Bed;
use harness::dist::{
    QEMU, SHIM, VMM, machine, machine_is_qemu, patience, subject, subject_is_ours,
};
use harness::process::{self, Process};
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::task::{Answer, Bundle, Code, Shim, fifo};
use nix::sys::signal::Signal;

/// The only process of this name, once it exists.
fn await_named(bed: &Bed, name: &str, limit: Duration) -> Process {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = bed.named(name).into_iter().next() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "no {name} appeared within {limit:?}"
        );
        // Polls: another program's child gives no event.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill_and_see_gone(victim: &Process) {
    process::signal(victim.pid, Signal::SIGKILL);
    assert!(
        process::wait_gone(victim.pid, patience(5.0)),
        "{victim:?} survives SIGKILL"
    );
}

/// Kills `victim` while a container runs.
fn dies_while_running(victim: &str) {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);
    let exec = Running::spawn(
        scene.exec_command("c", "e", &[], &["sh", "-c", "echo ready; sleep 1000"]),
        Input::Null,
    );
    exec.stdout.expect("ready\n", limit());

    kill_and_see_gone(&await_named(&bed, victim, patience(5.0)));

    let exit = scene.await_event_within("c", "/tasks/exit", patience(10.0));
    assert!(
        matches!(exit.status(), Some(137 | 255)),
        "containerd got: {exit}"
    );
    let exec = exec.finish(patience(20.0));
    assert_ne!(exec.code, 0, "the exec: {exec:?}");
    scene.remove("c");
    assert_eq!(
        scene
            .events("c")
            .iter()
            .filter(|event| event.starts_with("/tasks/exit s"))
            .count(),
        1
    );
    bed.assert_clean();
    assert_eq!(scene.shell("c", &[], "echo again").ok().out(), "again\n");
}

/// When a process is killed while a container is being created.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// As soon as its sign has appeared.
    Start,
    /// When the machine has computed for a while.
    Boot,
    /// When the container's hook runs, which then waits for the kill.
    Create,
}

/// Kills `victim` while a container is being created: `sign` appears first.
fn dies_while_creating(victim: &str, sign: &str, moments: &[Moment]) {
    require!(subject_is_ours());
    for moment in moments {
        let bed = Bed::new();
        let scene = Scene::subject(&bed);
        let (reached, killed) = (bed.fresh("reached"), bed.fresh("killed"));
        let [here, gate] = [&reached, &killed].map(|path| path.display());
        let hook = format!("echo > {here}; while [ ! -e {gate} ]; do sleep 0.01; done");
        let hooks = serde_json::json!({
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}],
        });
        let spec = Spec::new(&bed.rootfs(), &["sleep", "1000"]).set("/hooks", hooks);
        let running = Running::spawn(scene.spec_command("c", &["--rm"], &spec), Input::Null);
        await_named(&bed, sign, limit());
        let found = await_named(&bed, victim, limit());
        match moment {
            Moment::Start => {}
            Moment::Boot => until("the guest boots", || boots(&bed)),
            Moment::Create => until("the hook runs", || reached.exists()),
        }

        kill_and_see_gone(&found);
        File::create(&killed).expect("the bed is ours");

        let output = running.finish(patience(20.0));
        assert_ne!(output.code, 0, "{moment:?}: {output:?}");
        assert!(!output.err().trim().is_empty(), "{moment:?}: no word");
        let events = scene.events("c");
        let started = events.iter().any(|event| event.starts_with("/tasks/start"));
        assert!(!started, "{moment:?}: {events:?}");
        // The kill may come when the container has just been created: a task that was not started
        // stays for its client, with every runtime.
        if scene.status("c").is_some() {
            scene.remove("c");
        }
        bed.assert_clean();
    }
}

/// Whether the machine has had 50 ms of CPU time.
fn boots(bed: &Bed) -> bool {
    let machine = bed.named(machine()).into_iter().next();
    machine.is_some_and(|machine| process::cpu_time(machine.pid) >= Duration::from_millis(50))
}

/// Asks again and again: a stranger's files give no event.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit();
    while !is() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {:?}",
            limit()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_vmm_dies_while_running() {
    dies_while_running(VMM);
}

#[test]
fn qemu_dies_while_running() {
    require!(machine_is_qemu());
    dies_while_running(QEMU);
}

#[test]
fn the_shim_dies_while_running() {
    dies_while_running(SHIM);
}

#[test]
fn the_vmm_dies_while_creating() {
    dies_while_creating(VMM, VMM, &[Moment::Create, Moment::Start, Moment::Boot]);
}

#[test]
fn qemu_dies_while_creating() {
    require!(machine_is_qemu());
    dies_while_creating(QEMU, QEMU, &[Moment::Start, Moment::Boot, Moment::Create]);
}

#[test]
fn the_shim_dies_while_creating() {
    // Before there is a VM, the serving shim cannot be distinguished from `start`.
    dies_while_creating(SHIM, VMM, &[Moment::Start, Moment::Boot, Moment::Create]);
}

/// Kills containerd while it waits for the creation of a container: at a moment that the
/// container's hook determines, or while the guest boots. containerd cannot remove the
/// container any more.
fn containerd_dies_while_creating(held: bool) {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let (reached, gate) = (bed.fresh("reached"), fifo(bed.dir(), "gate"));
    let hook = format!("echo > {}; cat {}", reached.display(), gate.display());
    let hooks = serde_json::json!({
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}],
    });
    let spec = Spec::new(&bed.rootfs(), &["sleep", "1000"]).set("/hooks", hooks);
    let creating = Running::spawn(scene.spec_command("c", &[], &spec), Input::Null);
    let vmm = await_named(&bed, VMM, limit());
    let shim = await_named(&bed, SHIM, limit());
    until("the hook runs", || !held || reached.exists());

    bed.kill_containerd();
    if held {
        // The hook continues: the container is made, and its creation succeeds.
        drop(File::options().write(true).open(gate).expect("our fifo"));
    }

    assert_ne!(creating.finish(patience(20.0)).code, 0);
    for process in [&vmm, &shim] {
        let gone = process::wait_gone(process.pid, patience(30.0));
        assert!(gone, "nobody owns {process:?}");
    }
    bed.restart_containerd();
    scene.remove("c");
    bed.assert_clean();
    assert_eq!(scene.shell("c", &[], "echo again").ok().out(), "again\n");
}

#[test]
fn containerd_dies_while_a_container_is_made() {
    containerd_dies_while_creating(true);
}

#[test]
fn containerd_dies_while_a_guest_boots() {
    containerd_dies_while_creating(false);
}

/// Stops `victim` while a container runs.
fn hangs(victim: &str) {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);
    process::signal(
        await_named(&bed, victim, patience(5.0)).pid,
        Signal::SIGSTOP,
    );

    let list = scene.task(&["ls"]).ok();
    assert!(list.elapsed < patience(2.0), "State took {list:?}");
    let removed = run(
        scene.task_command(&["rm", "-f", "c"]),
        Input::Null,
        patience(30.0),
    );
    assert!(removed.elapsed < patience(20.0), "{removed:?}");
    let exit = scene.await_event_within("c", "/tasks/exit", patience(20.0));
    assert!(
        matches!(exit.status(), Some(137 | 255)),
        "containerd got: {exit}"
    );
    scene.remove("c");
    bed.assert_clean();
}

#[test]
fn a_stopped_qemu_blocks_nobody() {
    require!(machine_is_qemu());
    hangs(QEMU);
}

#[test]
fn a_stopped_vmm_blocks_nobody() {
    hangs(VMM);
}

#[test]
fn calls_to_a_pod_that_hangs_end_by_their_deadlines() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["sleep", "1000"]));
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, None, false).expect("create");
    shim.start_process("c", "").expect("start");
    let hung = await_named(&bed, machine(), patience(5.0));
    process::signal(hung.pid, Signal::SIGSTOP);

    let at_once = patience(2.0);
    let ask = |what: &str, limit: Duration, call: &dyn Fn() -> Answer<()>| {
        let since = Instant::now();
        let answer = call();
        let took = since.elapsed();
        assert!(took < limit, "{what} took {took:?}: {answer:?}");
        answer
    };
    let state = || shim.state("c", "").map(drop);
    let stats = || shim.stats("c").map(drop);
    let delete = || shim.delete("c", "").map(drop);
    ask("State", at_once, &state).expect("state");
    ask("Pids", at_once, &|| shim.pids("c").map(drop)).expect("pids");
    ask("Delete", at_once, &delete).expect_err("it runs");
    let refusal = ask("Stats", patience(15.0), &stats).expect_err("the guest is silent");
    assert_eq!(refusal.code, Code::DEADLINE_EXCEEDED, "{refusal:?}");
    // Other calls do not delay State.
    let again = Shim::connect(&shim.address);
    let killer = std::thread::spawn(move || again.kill("c", "", 9, true).map(drop));
    ask("State beside Kill", at_once, &state).expect("state");
    let killed = killer.join().expect("no panic");

    // The VM of a guest that does not answer can only be ended.
    assert!(killed.is_ok(), "SIGKILL: {killed:?}");
    let exit = shim.wait("c", "").expect("wait").exit_status;
    assert!(matches!(exit, 137 | 255), "exit {exit}");
    ask("Delete", patience(5.0), &delete).expect("delete");
    let _ = shim.shutdown("c");
}

#[test]
fn delete_by_hand_ends_a_pod_whose_machine_or_shim_is_stopped() {
    require!(subject_is_ours());
    for victim in [machine(), SHIM] {
        let bed = Bed::new();
        let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["sleep", "1000"]));
        let shim = Shim::start(&bed, &subject(), &bundle);
        shim.create(&bundle, None, false).expect("create");
        shim.start_process("c", "").expect("start");
        process::signal(
            await_named(&bed, victim, patience(5.0)).pid,
            Signal::SIGSTOP,
        );

        let output = bundle.delete(&bed, &subject());

        assert_eq!(output.code, 0, "with {victim} stopped: {output:?}");
        assert!(
            output.elapsed < patience(5.0),
            "with {victim} stopped, containerd waits 5 s: {output:?}"
        );
    }
}

#[test]
fn a_pod_of_three_loses_its_vm_and_every_container_is_told() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let spec = |id: &str| {
        let spec = Spec::new(&bed.rootfs(), &["sleep", "1000"]);
        if id == "pod" {
            spec.sandbox("pod")
        } else {
            spec.in_pod("pod")
        }
    };
    let ids = ["pod", "a", "b"];
    for id in ids {
        scene.detach_spec(id, &spec(id));
    }

    kill_and_see_gone(&await_named(&bed, machine(), patience(5.0)));

    for id in ids {
        let exit = scene.await_event_within(id, "/tasks/exit", patience(10.0));
        assert!(matches!(exit.status(), Some(137 | 255)), "{id}: {exit}");
    }
    for id in ids.iter().rev() {
        scene.remove(id);
    }
    bed.assert_clean();
}
