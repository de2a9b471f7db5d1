//! `rust-kata` in a process of its own, on pods of a temporary directory, whose owners a test
//! plays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use clap::Parser;
use protos::management as api;
use protos::management::{attach_input, attach_output};
use protos::management_ttrpc::{Engine, Management, create_engine, create_management};
use runtime::Config;
use runtime::engine::owner::Owner;
use runtime::engine::wire;
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use ttrpc::asynchronous::TtrpcContext;

use super::Cli;
use crate::error::Error;
use crate::manage::server;

/// The words of the command line, as JSON, and the file that is its stdout.
const WORDS: &str = "RUST_KATA_TEST_WORDS";
const STDOUT: &str = "RUST_KATA_TEST_STDOUT";

/// The other tests run it.
#[test]
fn plays_rust_kata() {
    let Ok(words) = std::env::var(WORDS) else {
        return;
    };
    let words: Vec<String> = serde_json::from_str(&words).unwrap();
    let stdout = File::create(std::env::var(STDOUT).unwrap()).unwrap();
    nix::unistd::dup2_stdout(stdout).unwrap();
    let cli = Cli::try_parse_from(words).unwrap_or_else(|problem| problem.exit());
    let code = super::run(cli).unwrap_or_else(|error| super::report(&error));
    std::process::exit(code.into());
}

/// The end of a command.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A machine with its own pods, volumes and images.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!("root = \"{path}/run\"\ndata_root = \"{path}/data\"\n");
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        Self { dir }
    }

    /// A file of the scene.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command; `DIR` in a word is the directory of the scene.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.run_with("", words)
    }

    /// The same, with this text as stdin.
    pub(crate) fn run_with(&self, stdin: &str, words: &[&str]) -> Said {
        let dir = self.dir.path().display().to_string();
        let config = self.path("config.toml").display().to_string();
        let words = words.iter().map(|word| word.replace("DIR", &dir));
        let words: Vec<String> = ["rust-kata".into(), "--config".into(), config]
            .into_iter()
            .chain(words)
            .collect();
        let stdout = tempfile::NamedTempFile::new_in(&dir).unwrap();
        let input = self.path("stdin");
        std::fs::write(&input, stdin).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::testing::plays_rust_kata", "--nocapture"])
            .env(WORDS, serde_json::to_string(&words).unwrap())
            .env(STDOUT, stdout.path())
            .stdin(File::open(input).unwrap())
            .output()
            .unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: std::fs::read_to_string(stdout.path())
                .unwrap()
                .replace(&dir, "DIR"),
            err: String::from_utf8(output.stderr)
                .unwrap()
                .replace(&dir, "DIR"),
        }
    }

    /// Runs a line of words that must succeed; returns what it prints.
    #[track_caller]
    pub(crate) fn says(&self, line: &str) -> String {
        let said = self.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(said.code, 0, "{line}: {}", said.err);
        said.out
    }

    /// Runs a line of words that must fail with this code; returns its message.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, line: &str) -> String {
        let said = self.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(said.code, code, "{line}: {}{}", said.out, said.err);
        said.err
    }

    /// Gives a container of the pod `p` another state.
    pub(crate) fn put(&self, container: &str, status: &str) {
        let file = format!("data/pods/local/p/containers/{container}/state.json");
        let file = self.path(&file);
        let text = std::fs::read_to_string(&file).unwrap();
        let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(state["status"].is_string(), "{text}");
        state["status"] = status.into();
        std::fs::write(&file, state.to_string()).unwrap();
    }

    /// The value that a command prints as JSON.
    #[track_caller]
    pub(crate) fn shows(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.says(line)).unwrap()
    }

    /// Makes the pod `p` with the containers `a` and `b`.
    pub(crate) fn with_a_pod() -> Self {
        let scene = Self::new();
        scene.says("pod create --name p");
        for name in ["a", "b"] {
            scene.says(&format!(
                "create --pod p --name {name} --rootfs DIR/rootfs sleep {name}"
            ));
        }
        scene
    }

    /// Plays the owner of the pod `p`.
    pub(crate) fn owner(&self) -> PlayedOwner {
        self.owner_that(Answers::default())
    }

    /// The same, with these answers.
    pub(crate) fn owner_that(&self, answers: Answers) -> PlayedOwner {
        PlayedOwner::start(&self.path("config.toml"), answers)
    }
}

/// What a played owner answers beside that all went well.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) stats: api::StatsResponse,
    pub(crate) processes: api::ProcessesResponse,
    /// The results of `Stop`, instead of a success for each container.
    pub(crate) stopped: Option<api::Results>,
    pub(crate) batch: api::BatchResponse,
    pub(crate) exit_code: u32,
}

/// An owner that holds the lock of a pod, and records what it is asked.
pub(crate) struct PlayedOwner {
    asked: Arc<Mutex<Vec<String>>>,
    _owner: Arc<Owner>,
    _tokio: tokio::runtime::Runtime,
}

impl PlayedOwner {
    fn start(config: &Path, answers: Answers) -> Self {
        let loaded = Config::load(Some(config)).unwrap();
        let engine = runtime::engine::Engine::new(loaded, Some(config)).unwrap();
        let pod = engine.pod("local", "p").unwrap();
        let address = engine.owner_address(pod.paths());
        let tokio = tokio::runtime::Builder::new_multi_thread();
        let tokio = { tokio }.worker_threads(1).enable_all().build().unwrap();
        let _inside = tokio.enter();
        let attach = wire::attach::address_of(&address);
        let listen = || Ok::<_, Error>((server::listen(&address)?, server::listen(&attach)?));
        let (owner, (listener, attachments)) =
            Owner::claim(&engine, pod.paths(), &address, listen).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let service = Arc::new(Recorder {
            asked: asked.clone(),
            answers,
        });
        let attachments = server::non_blocking(attachments).unwrap();
        tokio.spawn(attend(service.clone(), attachments));
        let mut services = create_management(service.clone());
        services.extend(create_engine(service));
        let server = tokio.block_on(server::start(listener, services)).unwrap();
        // It serves as long as its threads.
        std::mem::forget(server);
        drop(_inside);
        Self {
            asked,
            _owner: owner,
            _tokio: tokio,
        }
    }

    /// What it was asked since the last time: the call and its request.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

struct Recorder {
    asked: Arc<Mutex<Vec<String>>>,
    answers: Answers,
}

impl Recorder {
    fn note(&self, call: &str, request: &dyn protobuf::MessageDyn) {
        let request = protobuf::text_format::print_to_string(request);
        let line = format!("{call} {request}");
        self.asked.lock().unwrap().push(line.trim().to_owned());
    }

    /// A success for each container, or for the first one.
    fn done(
        &self,
        call: &str,
        request: &dyn protobuf::MessageDyn,
        names: &[String],
    ) -> api::Results {
        self.note(call, request);
        let all = ["a".to_owned()];
        let names = if names.is_empty() { &all[..] } else { names };
        let result = |name: &String| api::Result {
            container: name.clone(),
            ..Default::default()
        };
        api::Results {
            results: names.iter().map(result).collect(),
            ..Default::default()
        }
    }
}

/// Serves attachments: the process echoes its input, and ends with it.
async fn attend(service: Arc<Recorder>, listener: UnixListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let first = wire::attach::receive_first::<api::AttachInput>(&mut stream).await;
        let Ok(Some((first, _))) = first else {
            continue;
        };
        service.note("attach", &first);
        let stdin = match &first.kind {
            Some(attach_input::Kind::Exec(exec)) => exec.stdin,
            Some(attach_input::Kind::Request(request)) => request.stdin,
            _ => false,
        };
        let (mut from, mut to) = stream.into_split();
        let mut said = Vec::new();
        let attached = api::Attached {
            exec: "e1".into(),
            ..Default::default()
        };
        said.push(attach_output::Kind::Attached(attached));
        said.push(attach_output::Kind::Stdout(b"out\n".into()));
        said.push(attach_output::Kind::Stderr(b"err\n".into()));
        let exit = service.answers.exit_code;
        for kind in said {
            reply(&mut to, kind).await;
        }
        if stdin {
            echo(&mut from, &mut to).await;
        }
        reply(&mut to, attach_output::Kind::ExitCode(exit)).await;
    }
}

async fn echo(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
    loop {
        let input = wire::attach::receive::<api::AttachInput>(from).await;
        match input.unwrap().unwrap().kind {
            Some(attach_input::Kind::Stdin(data)) => {
                reply(to, attach_output::Kind::Stdout(data)).await;
            }
            Some(attach_input::Kind::StdinEnd(_)) => return,
            _ => {}
        }
    }
}

async fn reply(to: &mut OwnedWriteHalf, kind: attach_output::Kind) {
    let message = api::AttachOutput {
        kind: Some(kind),
        ..Default::default()
    };
    // The client may have gone.
    let _ = wire::attach::send(to, &message).await;
}

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Management for Recorder {
    async fn status(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::Empty> {
        Ok(api::Empty::new())
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::WaitResponse> {
        self.note("wait", &req);
        Ok(api::WaitResponse {
            exit_code: self.answers.exit_code,
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> Answer<api::Results> {
        Ok(self.done("kill", &req, &req.containers))
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        req: api::ContainersRequest,
    ) -> Answer<api::StatsResponse> {
        self.note("stats", &req);
        Ok(self.answers.stats.clone())
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::ProcessesResponse> {
        self.note("processes", &req);
        Ok(self.answers.processes.clone())
    }

    async fn create_exec(
        &self,
        _: &TtrpcContext,
        req: api::CreateExecRequest,
    ) -> Answer<api::ProcessRequest> {
        self.note("create_exec", &req);
        Ok(api::ProcessRequest {
            container: req.container,
            exec: "e1".into(),
            ..Default::default()
        })
    }

    async fn start_exec(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::Empty> {
        self.note("start_exec", &req);
        Ok(api::Empty::new())
    }

    async fn remove_exec(
        &self,
        _: &TtrpcContext,
        req: api::RemoveExecRequest,
    ) -> Answer<api::Empty> {
        self.note("remove_exec", &req);
        Ok(api::Empty::new())
    }
}

#[async_trait]
impl Engine for Recorder {
    async fn init(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("init", &req, &req.containers))
    }

    async fn start(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("start", &req, &req.containers))
    }

    async fn stop(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        let done = self.done("stop", &req, &req.containers);
        Ok(self.answers.stopped.clone().unwrap_or(done))
    }

    async fn restart(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        Ok(self.done("restart", &req, &req.containers))
    }

    async fn pause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("pause", &req, &req.containers))
    }

    async fn unpause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("unpause", &req, &req.containers))
    }

    async fn remove(&self, _: &TtrpcContext, req: api::RemoveRequest) -> Answer<api::Results> {
        Ok(self.done("remove", &req, &req.containers))
    }

    async fn adopt(&self, _: &TtrpcContext, req: api::ContainerRequest) -> Answer<api::Empty> {
        self.note("adopt", &req);
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, req: api::UpdateRequest) -> Answer<api::Empty> {
        let resources = String::from_utf8_lossy(&req.resources).into_owned();
        let line = format!("update {} {resources}", req.container);
        self.asked.lock().unwrap().push(line);
        Ok(api::Empty::new())
    }

    async fn batch(&self, _: &TtrpcContext, req: api::BatchRequest) -> Answer<api::BatchResponse> {
        self.note("batch", &req);
        Ok(self.answers.batch.clone())
    }

    async fn sync(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("sync", &req, &req.containers))
    }

    async fn cleanup(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        Ok(self.done("cleanup", &req, &req.containers))
    }

    async fn shutdown(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        Ok(self.done("shutdown", &req, &req.containers))
    }

    async fn mount(&self, _: &TtrpcContext, req: api::MountRequest) -> Answer<api::MountResponse> {
        self.note("mount", &req);
        Ok(api::MountResponse {
            path: format!("/mounted/{}", req.container),
            ..Default::default()
        })
    }

    async fn unmount(&self, _: &TtrpcContext, req: api::UnmountRequest) -> Answer<api::Empty> {
        self.note("unmount", &req);
        Ok(api::Empty::new())
    }

    async fn files_changed(&self, _: &TtrpcContext, req: api::Empty) -> Answer<api::Empty> {
        self.note("files_changed", &req);
        Ok(api::Empty::new())
    }
}
