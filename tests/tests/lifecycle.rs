//! A task's life: start, pause, kill, state, delete, with runc's order of events and runc's
//! refusals.

use harness::dist::patience;
use harness::oracle::compare;
use harness::process;
use harness::run::{Input, run};
use harness::scene::{cgroups_are_unified, limit};
use harness::spec::Spec;
use serde_json::json;

#[test]
fn a_task_is_created_started_paused_resumed_killed_and_deleted() {
    compare(|scene| {
        let count = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; usleep 20000; done";
        scene.detach("c", &[], &["sh", "-c", count]);
        scene.see("running", scene.status("c"));
        let count = |exec: &str| {
            scene
                .exec("c", exec, &[], &["cat", "/tmp/count"])
                .ok()
                .out()
        };

        scene.task(&["pause", "c"]).ok();
        scene.see("paused", scene.status("c"));
        let again = scene.task(&["pause", "c"]);
        scene.see("paused again", again.code);
        let exec = scene.exec("c", "frozen", &[], &["true"]);
        scene.see_refusal("exec while paused", &exec, "");
        scene.task(&["resume", "c"]).ok();
        scene.see("resumed", scene.status("c"));
        let (first, deadline) = (count("e1"), std::time::Instant::now() + limit());
        let goes_on = (0..)
            .map(|turn| count(&format!("again{turn}")))
            .find(|now| *now != first || std::time::Instant::now() > deadline);
        assert_ne!(goes_on, Some(first), "nothing moves after resume");

        let early = scene.task(&["rm", "c"]);
        scene.see_refusal("delete while running", &early, "");
        scene.see("still running", scene.status("c"));
        scene.task(&["kill", "-s", "KILL", "c"]).ok();
        scene.await_event("c", "/tasks/exit");
        scene.see("stopped", scene.status("c"));
        let kill = scene.task(&["kill", "-s", "KILL", "c"]);
        scene.see_refusal("kill after the exit", &kill, "not found");
        let late = scene.exec("c", "late", &[], &["true"]);
        scene.see_refusal("exec after the exit", &late, "");
        scene.see("code told by delete", scene.delete("c"));
        scene.see("deleted", scene.status("c"));
        scene.remove("c");
        let mut events = scene.events("c");
        events.retain(|event| !event.contains("exec="));
        scene.see("events", events);
    });
}

#[test]
fn a_paused_task_does_not_run() {
    compare(|scene| {
        let host = scene.bed.fresh("shared");
        std::fs::create_dir(&host).expect("ours");
        let script = "i=0; while :; do i=$((i+1)); echo $i > /v/count; usleep 10000; done";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script]).mount(
            "bind",
            &host,
            "/v",
            &["rbind", "rw"],
        );
        scene.detach_spec("c", &spec);
        let count = || std::fs::read_to_string(host.join("count")).unwrap_or_default();
        let moves = || {
            let (before, deadline) = (count(), std::time::Instant::now() + patience(20.0));
            std::iter::repeat_with(count)
                .take_while(|_| std::time::Instant::now() < deadline)
                .any(|now| now != before && !now.is_empty())
        };
        assert!(moves());

        scene.task(&["pause", "c"]).ok();
        let frozen = count();
        // The absence of an event can only be observed over some time.
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(count(), frozen, "it ran while paused");
        scene.task(&["resume", "c"]).ok();
        assert!(moves());

        scene.task(&["pause", "c"]).ok();
        scene.task(&["kill", "-s", "KILL", "c"]).ok();
        scene.await_event_within("c", "/tasks/exit", patience(10.0));
        scene.see("code of one killed while paused", scene.delete("c"));
        scene.remove("c");
        scene.see_events("c");
    });
}

#[test]
fn signals_reach_the_process_and_end_it_as_under_runc() {
    compare(|scene| {
        let script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let running = scene.start("c", &[], &["sh", "-c", script], Input::Null);
        running.stdout.expect("ready\n", limit());

        scene.task(&["kill", "-s", "USR1", "c"]).ok();
        running.stdout.expect("usr1\n", patience(20.0));
        scene.task(&["kill", "-s", "TERM", "c"]).ok();

        scene.see_output("with traps", &running.finish(limit()).exits(9));
        scene.see_events("c");
        scene.remove("c");

        // The init of a pid namespace ignores signals without a handler.
        let running = scene.start(
            "d",
            &[],
            &["sh", "-c", "echo ready; exec sleep 1000"],
            Input::Null,
        );
        running.stdout.expect("ready\n", limit());
        scene.task(&["kill", "-s", "TERM", "d"]).ok();
        scene.see("after an ignored signal", scene.status("d"));
        let unknown = scene.task(&["kill", "-s", "NOSIG", "d"]);
        scene.see_refusal("no such signal", &unknown, "");
        scene.task(&["kill", "-a", "-s", "KILL", "d"]).ok();
        scene.see_output("without", &running.finish(limit()).exits(137));
        scene.see_events("d");
        scene.remove("d");
    });
}

#[test]
fn kill_all_ends_every_process_also_without_a_pid_namespace() {
    compare(|scene| {
        let mut spec = Spec::new(
            &scene.bed.rootfs(),
            &["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"],
        );
        let namespaces = spec.0["linux"]["namespaces"]
            .as_array_mut()
            .expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "pid");
        let running = scene.start_spec("c", &[], &spec, Input::Null);
        running.stdout.expect("ready\n", limit());

        scene.task(&["kill", "-a", "-s", "KILL", "c"]).ok();

        scene.see_output("output", &running.finish(patience(30.0)).exits(137));
        scene.see_events("c");
        scene.remove("c");
    });
}

#[test]
fn processes_and_metrics_are_told() {
    compare(|scene| {
        let memory = json!({ "limit": 64 << 20 });
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; sleep 1000 & sleep 1001 & echo ready; wait"])
            .set("/linux/resources/memory", memory)
            .set("/linux/resources/pids", json!({ "limit": 50 }));
        let running = scene.start_spec("c", &[], &spec, Input::Null);
        running.stdout.expect("ready\n", limit());

        let pids = || -> Vec<u32> {
            let list = scene.task(&["ps", "c"]).ok().out();
            let words = list.lines().skip(1);
            words
                .filter_map(|line| line.split_whitespace().next()?.parse().ok())
                .collect()
        };
        let (alone, pid) = (pids(), scene.pid("c"));
        assert!(alone.contains(&pid), "the task's {pid} is not in {alone:?}");
        scene.exec("c", "e", &["-d"], &["sleep", "1000"]).ok();
        let with_exec = pids();
        assert_eq!(with_exec.len(), alone.len() + 1, "{with_exec:?}");
        for pid in with_exec {
            assert!(process::state(pid).is_some(), "no {pid} on the host");
        }

        let metrics = scene.metrics("c");
        let number = |path: &str| {
            metrics
                .pointer(path)
                .and_then(|n| n.as_u64())
                .unwrap_or_else(|| panic!("no {path} in {metrics}"))
        };
        // The metrics have the form of the host's cgroup version.
        let [memory, limit_of_memory, cpu] = if cgroups_are_unified() {
            ["/memory/usage", "/memory/usage_limit", "/cpu/usage_usec"]
        } else {
            [
                "/memory/usage/usage",
                "/memory/usage/limit",
                "/cpu/usage/total",
            ]
        };
        assert!(
            (20 << 20..64 << 20).contains(&number(memory)),
            "memory of {metrics}"
        );
        scene.see("memory limit", number(limit_of_memory));
        scene.see("pids", (number("/pids/current"), number("/pids/limit")));

        assert!(number(cpu) > 0, "cpu of {metrics}");
        for part in [
            "/cpu/throttling",
            "/memory/swap",
            "/memory/kernel",
            "/memory_events",
            "/blkio",
        ] {
            scene.see(part, metrics.pointer(part).is_some());
        }

        scene.task(&["kill", "-a", "-s", "KILL", "c"]).ok();
        running.finish(limit()).exits(137);
        scene.remove("c");
    });
}

#[test]
fn the_pid_of_a_task_lives_as_long_as_the_task() {
    compare(|scene| {
        scene.detach("c", &[], &["sleep", "1000"]);
        let pid = scene.pid("c");
        assert!(
            pid > 1 && process::state(pid).is_some_and(|state| state != 'Z'),
            "pid {pid} does not run"
        );

        scene.task(&["kill", "-s", "KILL", "c"]).ok();
        scene.await_event("c", "/tasks/exit");

        assert!(
            process::wait_gone(pid, patience(5.0)),
            "pid {pid} still runs after the exit event"
        );
        scene.remove("c");
    });
}

#[test]
fn a_task_that_ended_long_ago_tells_its_code() {
    compare(|scene| {
        scene.detach("c", &[], &["sh", "-c", "exit 23"]);
        scene.await_event("c", "/tasks/exit");

        let attached = scene.task(&["attach", "c"]);
        scene.see("wait after the exit", attached.code);
        assert_eq!(attached.code, 23, "{attached:?}");
        scene.see_events("c");
        scene.remove("c");
    });
}

#[test]
fn a_name_in_use_is_refused_and_may_be_used_again_later() {
    compare(|scene| {
        scene.detach("c", &[], &["sleep", "1000"]);
        let second = run(
            scene.run_command("c", &["-d", "--null-io"], &["true"]),
            Input::Null,
            limit(),
        );
        scene.see_refusal("the name again", &second, "exists");
        scene.see("the first", scene.status("c"));
        scene.remove("c");

        for turn in 0..3 {
            scene.see_output(
                &format!("turn {turn}"),
                &scene.shell("c", &[], "echo again").ok(),
            );
        }
    });
}

#[test]
fn a_forced_delete_ends_a_running_task() {
    compare(|scene| {
        scene.detach("c", &[], &["sleep", "1000"]);

        let forced = scene.task(&["rm", "-f", "c"]);

        scene.see("forced delete", forced.code);
        scene.see_events("c");
        scene.remove("c");
    });
}
