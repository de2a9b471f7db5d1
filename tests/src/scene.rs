//! One runtime driven through `ctr` in a bed.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::dist::{self, patience};
use crate::events::Event;
use crate::image::IMAGE;
use crate::pty::Terminal;
use crate::run::{Input, Output, Running, run};
use crate::spec::Spec;

/// The time limit of one `ctr` command, including a boot of a VM under emulation on a busy
/// machine.
pub fn limit() -> Duration {
    patience(90.0)
}

/// Whether this host has only cgroup v2.
pub fn cgroups_are_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A runtime in a bed, and the observations of it.
pub struct Scene<'a> {
    /// Its bed.
    pub bed: &'a Bed,
    /// The runtime's name.
    pub runtime: String,
    seen: RefCell<Vec<(String, String)>>,
}

impl<'a> Scene<'a> {
    /// A scene for `runtime`.
    pub fn new(bed: &'a Bed, runtime: &str) -> Self {
        Self {
            bed,
            runtime: runtime.to_owned(),
            seen: RefCell::default(),
        }
    }

    /// A scene for the runtime under test.
    pub fn subject(bed: &'a Bed) -> Self {
        Self::new(bed, &dist::subject())
    }

    /// Whether containers run in a VM.
    pub fn is_vm(&self) -> bool {
        self.runtime == dist::RUST_KATA
    }

    /// `ctr run --runtime … FLAGS IMAGE ID ARGV`.
    pub fn run_command(&self, id: &str, flags: &[&str], argv: &[&str]) -> Command {
        self.bed.note(id);
        let mut words = vec!["run", "--runtime", &self.runtime];
        words.extend(flags);
        words.extend([IMAGE, id]);
        words.extend(argv);
        self.bed.ctr(&words)
    }

    /// `ctr containers create --runtime … IMAGE ID ARGV`: creates the container without a task.
    pub fn create_command(&self, id: &str, argv: &[&str]) -> Command {
        self.bed.note(id);
        let mut words = vec!["containers", "create", "--runtime", &self.runtime];
        words.extend([IMAGE, id]);
        words.extend(argv);
        self.bed.ctr(&words)
    }

    /// `ctr run --runtime … FLAGS --config SPEC ID`.
    pub fn spec_command(&self, id: &str, flags: &[&str], spec: &Spec) -> Command {
        self.bed.note(id);
        let file = self.bed.fresh("spec");
        let group = format!("/{}/{id}", self.bed.namespace());
        let mut spec = spec.clone();
        if spec
            .0
            .pointer("/linux/cgroupsPath")
            .is_none_or(|path| path == "/default")
        {
            spec = spec.set("/linux/cgroupsPath", json!(group));
        }
        spec.write(&file);
        let mut words = vec!["run", "--runtime", &self.runtime];
        words.extend(flags);
        words.extend(["--config", file.to_str().expect("an ASCII path"), id]);
        self.bed.ctr(&words)
    }

    /// Runs a container of the image to its end and removes it.
    #[track_caller]
    pub fn run(&self, id: &str, flags: &[&str], argv: &[&str]) -> Output {
        self.run_with(id, flags, argv, Input::Null)
    }

    /// [`Scene::run`] with something to read.
    #[track_caller]
    pub fn run_with(&self, id: &str, flags: &[&str], argv: &[&str], input: Input) -> Output {
        let flags = [&["--rm"], flags].concat();
        run(self.run_command(id, &flags, argv), input, limit())
    }

    /// Runs a shell script in a container of the image.
    #[track_caller]
    pub fn shell(&self, id: &str, flags: &[&str], script: &str) -> Output {
        self.run(id, flags, &["sh", "-c", script])
    }

    /// Runs a container of a spec to its end and removes it.
    #[track_caller]
    pub fn run_spec(&self, id: &str, spec: &Spec) -> Output {
        run(self.spec_command(id, &["--rm"], spec), Input::Null, limit())
    }

    /// Starts a container and leaves it running with its stdio.
    #[track_caller]
    pub fn start(&self, id: &str, flags: &[&str], argv: &[&str], input: Input) -> Running {
        Running::spawn(self.run_command(id, flags, argv), input)
    }

    /// [`Scene::start`] of a spec.
    #[track_caller]
    pub fn start_spec(&self, id: &str, flags: &[&str], spec: &Spec, input: Input) -> Running {
        Running::spawn(self.spec_command(id, flags, spec), input)
    }

    /// Starts a container without stdio; returns when it runs.
    #[track_caller]
    pub fn detach(&self, id: &str, flags: &[&str], argv: &[&str]) {
        let flags = [&["-d", "--null-io"], flags].concat();
        run(self.run_command(id, &flags, argv), Input::Null, limit()).ok();
    }

    /// [`Scene::detach`] of a spec.
    #[track_caller]
    pub fn detach_spec(&self, id: &str, spec: &Spec) {
        run(
            self.spec_command(id, &["-d", "--null-io"], spec),
            Input::Null,
            limit(),
        )
        .ok();
    }

    /// Runs a container on a terminal of 24 × 80.
    #[track_caller]
    pub fn terminal(&self, id: &str, flags: &[&str], argv: &[&str]) -> Terminal {
        let flags = [&["--rm", "-t"], flags].concat();
        Terminal::spawn(self.run_command(id, &flags, argv), 24, 80)
    }

    /// `ctr task ARGS`.
    #[track_caller]
    pub fn task(&self, args: &[&str]) -> Output {
        run(self.task_command(args), Input::Null, limit())
    }

    /// The command line of [`Scene::task`].
    pub fn task_command(&self, args: &[&str]) -> Command {
        self.bed.ctr(&[&["task"], args].concat())
    }

    /// `ctr task exec`.
    #[track_caller]
    pub fn exec(&self, id: &str, exec: &str, flags: &[&str], argv: &[&str]) -> Output {
        self.exec_with(id, exec, flags, argv, Input::Null)
    }

    /// [`Scene::exec`] with something to read.
    #[track_caller]
    pub fn exec_with(
        &self,
        id: &str,
        exec: &str,
        flags: &[&str],
        argv: &[&str],
        input: Input,
    ) -> Output {
        run(self.exec_command(id, exec, flags, argv), input, limit())
    }

    /// The command line of [`Scene::exec`].
    pub fn exec_command(&self, id: &str, exec: &str, flags: &[&str], argv: &[&str]) -> Command {
        let args = [&["exec", "--exec-id", exec], flags, &[id], argv].concat();
        self.task_command(&args)
    }

    /// The status in `ctr task ls` (`RUNNING`, `STOPPED`, …); `None` if there is no such task.
    #[track_caller]
    pub fn status(&self, id: &str) -> Option<String> {
        let list = self.task(&["ls"]).ok().out();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    /// The host's pid of a task, as in `ctr task ls`.
    #[track_caller]
    pub fn pid(&self, id: &str) -> u32 {
        let list = self.task(&["ls"]).ok().out();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        pid.unwrap_or_else(|| panic!("no pid of {id} in {list}"))
    }

    /// Deletes a stopped task; returns its exit code.
    #[track_caller]
    pub fn delete(&self, id: &str) -> i32 {
        let output = self.task(&["rm", id]).ok();
        // `ctr` warns "task … exit with non-zero exit code N".
        let words = output.err();
        let code = words.split("non-zero exit code ").nth(1);
        code.map_or(0, |text| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits
                .parse()
                .unwrap_or_else(|_| panic!("no exit code in {words:?}"))
        })
    }

    /// Kills the task if it runs, and removes task and container.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        if self.status(id).is_some() {
            self.task(&["rm", "-f", id]);
        }
        run(self.bed.ctr(&["container", "rm", id]), Input::Null, limit()).ok();
    }

    /// Waits for the container's first event of this topic.
    #[track_caller]
    pub fn await_event(&self, id: &str, topic: &str) -> Event {
        self.await_event_within(id, topic, limit())
    }

    /// [`Scene::await_event`] with a limit of its own.
    #[track_caller]
    pub fn await_event_within(&self, id: &str, topic: &str, limit: Duration) -> Event {
        let wanted = |event: &Event| {
            event.namespace == self.bed.namespace()
                && event.topic == topic
                && event.container() == id
                && event.exec().is_empty()
        };
        self.bed.events.wait(limit, wanted).unwrap_or_else(|| {
            panic!(
                "no {topic} of {id} within {limit:?}; events: {:?}",
                self.events(id)
            )
        })
    }

    /// The task events of a container so far, in order.
    pub fn events(&self, id: &str) -> Vec<String> {
        self.bed
            .events
            .of(self.bed.namespace(), id)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Records an observation that must be the same under every runtime.
    pub fn see(&self, what: &str, value: impl std::fmt::Debug) {
        self.seen
            .borrow_mut()
            .push((what.to_owned(), format!("{value:#?}")));
    }

    /// Records the result of a command.
    pub fn see_output(&self, what: &str, output: &Output) {
        let streams = [&output.stdout, &output.stderr];
        for (name, stream) in ["stdout", "stderr"].iter().zip(streams) {
            self.see(&format!("{what}: {name}"), stream.text());
            self.see(
                &format!("{what}: {name} length and hash"),
                (stream.length, stream.sha256()),
            );
        }
        self.see(&format!("{what}: exit code"), output.code);
    }

    /// Records that a command failed, and its exit code. The messages of runtimes differ, but
    /// there must be one, and it must contain `named`.
    #[track_caller]
    pub fn see_refusal(&self, what: &str, output: &Output, named: &str) {
        assert_ne!(output.code, 0, "{what} succeeded: {output:?}");
        assert!(
            output.err().contains(named),
            "{what}: the error does not name {named:?}: {output:?}"
        );
        self.see(&format!("{what}: exit code"), output.code);
    }

    /// Records the container's task events once its task is deleted.
    #[track_caller]
    pub fn see_events(&self, id: &str) {
        self.await_event(id, "/tasks/delete");
        self.see(&format!("events of {id}"), self.events(id));
    }

    /// The observations.
    pub fn seen(&self) -> Vec<(String, String)> {
        self.seen.borrow().clone()
    }

    /// `ctr task metrics` as JSON.
    #[track_caller]
    pub fn metrics(&self, id: &str) -> Value {
        let text = self.task(&["metrics", "--format", "json", id]).ok().out();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("metrics are not JSON ({error}): {text}"))
    }
}
