//! An owner that the tests play: it records each call and gives prepared answers.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use protobuf::MessageFull;
use protos::management as api;
use protos::management_ttrpc::{Engine, Management, create_engine, create_management};
use tokio::net::UnixListener;
use ttrpc::Code;
use ttrpc::r#async::{Server, TtrpcContext};

use crate::engine::wire::attach;
use crate::state_dir::lock::{Guarded, OwnerLock, OwnerProcess};
use crate::sync::lock;

/// The answer to one call.
enum Answer {
    /// A message.
    Message(Vec<u8>),
    /// An error.
    Error(Code),
    /// The owner ends, and says so.
    Leave,
    /// The connection ends without an answer, and so does the owner.
    Die,
    /// None.
    Silence,
}

/// A [`PlayedOwner`] that ends when this is dropped: threads may wait for its end.
pub(in crate::engine) struct Owned(Arc<PlayedOwner>);

impl Deref for Owned {
    type Target = PlayedOwner;

    fn deref(&self) -> &PlayedOwner {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The owner of a pod.
pub(in crate::engine) struct PlayedOwner {
    heard: Mutex<Vec<String>>,
    answers: Mutex<BTreeMap<&'static str, VecDeque<Answer>>>,
    address: PathBuf,
    owns: Mutex<Option<OwnerLock>>,
    server: tokio::sync::Mutex<Option<Server>>,
    /// For the streams of processes.
    attachments: UnixListener,
}

impl PlayedOwner {
    /// Owns a pod, and listens at `address`.
    pub(in crate::engine) async fn of(pod: &impl Guarded, address: &Path) -> Owned {
        std::fs::create_dir_all(address.parent().unwrap()).unwrap();
        let process = OwnerProcess {
            pid: std::process::id(),
            start_time: hypervisor::start_time(std::process::id()).unwrap(),
            address: String::new(),
        };
        let owner = Arc::new(Self {
            heard: Mutex::default(),
            answers: Mutex::default(),
            address: address.to_owned(),
            owns: Mutex::default(),
            server: tokio::sync::Mutex::default(),
            attachments: UnixListener::bind(attach::address_of(address)).unwrap(),
        });
        let mut server = Server::new()
            .bind(&format!("unix://{}", address.display()))
            .unwrap()
            .register_service(create_management(owner.clone()))
            .register_service(create_engine(owner.clone()));
        server.start().await.unwrap();
        *owner.server.lock().await = Some(server);
        *lock(&owner.owns) = Some(OwnerLock::take(pod, &process).unwrap());
        Owned(owner)
    }

    /// The calls since the last request, with the fields of their messages.
    pub(in crate::engine) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.heard))
    }

    /// Prepares the answer to the next call of this name; without one it is an empty message.
    pub(in crate::engine) fn answer(&self, call: &'static str, message: &impl MessageFull) {
        self.prepare(call, Answer::Message(message.write_to_bytes().unwrap()));
    }

    pub(in crate::engine) fn refuse(&self, call: &'static str, code: Code) {
        self.prepare(call, Answer::Error(code));
    }

    /// At the next call of this name the owner says that it ends, and ends.
    pub(in crate::engine) fn leave_at(&self, call: &'static str) {
        self.prepare(call, Answer::Leave);
    }

    /// At the next call of this name the owner is killed.
    pub(in crate::engine) fn die_at(&self, call: &'static str) {
        self.prepare(call, Answer::Die);
    }

    /// The next call of this name is not answered.
    pub(in crate::engine) fn ignore(&self, call: &'static str) {
        self.prepare(call, Answer::Silence);
    }

    fn prepare(&self, call: &'static str, answer: Answer) {
        let mut answers = lock(&self.answers);
        answers.entry(call).or_default().push_back(answer);
    }

    /// Removes its sockets and gives up the pod. Calls that were made are still answered.
    pub(in crate::engine) fn leave(&self) {
        for socket in [attach::address_of(&self.address), self.address.clone()] {
            let _ = std::fs::remove_file(socket);
        }
        *lock(&self.owns) = None;
    }

    /// Accepts an attachment. Returns its stream and its first message.
    pub(in crate::engine) async fn attached(
        &self,
    ) -> (tokio::net::UnixStream, api::AttachInput, usize) {
        let (mut stream, _) = self.attachments.accept().await.unwrap();
        let first = attach::receive_first(&mut stream).await.unwrap();
        let (first, fds) = first.expect("a client sends its request");
        (stream, first, fds.len())
    }

    async fn hear<A: MessageFull>(
        &self,
        call: &'static str,
        request: &impl MessageFull,
    ) -> ttrpc::Result<A> {
        let fields = protobuf::text_format::print_to_string(request);
        let line = format!("{call} {fields}");
        lock(&self.heard).push(line.trim_end().to_owned());
        let answer = lock(&self.answers)
            .get_mut(call)
            .and_then(VecDeque::pop_front);
        let refused = |code| {
            let status = ttrpc::get_status(code, format!("{call} is refused"));
            Err(ttrpc::Error::RpcStatus(status))
        };
        match answer {
            None => Ok(A::default()),
            Some(Answer::Message(bytes)) => Ok(A::parse_from_bytes(&bytes).unwrap()),
            Some(Answer::Error(code)) => refused(code),
            Some(Answer::Silence) => std::future::pending().await,
            Some(Answer::Leave) => {
                self.leave();
                refused(Code::ABORTED)
            }
            Some(Answer::Die) => {
                self.leave();
                if let Some(mut server) = self.server.lock().await.take() {
                    tokio::spawn(async move { server.disconnect().await });
                }
                std::future::pending().await
            }
        }
    }
}

/// Implements a service: each call is recorded, and answered as it was prepared.
macro_rules! serves {
    ($service:ident { $($call:ident($request:ident) -> $answer:ident;)* }) => {
        #[async_trait]
        impl $service for PlayedOwner {
            $(async fn $call(
                &self,
                _: &TtrpcContext,
                request: api::$request,
            ) -> ttrpc::Result<api::$answer> {
                self.hear(stringify!($call), &request).await
            })*
        }
    };
}

serves! { Management {
    status(Empty) -> Empty;
    wait(ContainerRequest) -> WaitResponse;
    kill(KillRequest) -> Results;
    stats(ContainersRequest) -> StatsResponse;
    processes(ContainerRequest) -> ProcessesResponse;
    create_exec(CreateExecRequest) -> ProcessRequest;
    start_exec(ProcessRequest) -> Empty;
    remove_exec(RemoveExecRequest) -> Empty;
}}

serves! { Engine {
    init(ContainersRequest) -> Results;
    start(ContainersRequest) -> Results;
    stop(StopRequest) -> Results;
    restart(StopRequest) -> Results;
    pause(ContainersRequest) -> Results;
    unpause(ContainersRequest) -> Results;
    remove(RemoveRequest) -> Results;
    adopt(ContainerRequest) -> Empty;
    update(UpdateRequest) -> Empty;
    batch(BatchRequest) -> BatchResponse;
    sync(ContainersRequest) -> Results;
    cleanup(ContainersRequest) -> Results;
    shutdown(StopRequest) -> Results;
    mount(MountRequest) -> MountResponse;
    unmount(UnmountRequest) -> Empty;
    files_changed(Empty) -> Empty;
}}
