//! The delivery of events to containerd, in order.
//!
//! ```text
//! pod's events ──▶ forward: to an Envelope, dated ──▶ bounded queue ──▶ deliver: one at
//!                                                                       a time, with retries
//! ```
//!
//! containerd may restart: an event is offered again until it is [`KEEP`] old, and at most
//! [`QUEUE`] events wait. containerd asks for the state of every task when it comes back, so a
//! lost event does not lose an exit.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use protobuf::{Message, MessageField};
use runtime::PodEvent;
use runtime::engine::foreign::owner::is_foreign_exec;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use ttrpc::asynchronous::transport::Socket;

use crate::containerd::events::{Requests, envelope};

/// How many events may wait for containerd.
const QUEUE: usize = 2048;

/// How long an event is offered.
const KEEP: Duration = Duration::from_secs(120);

/// How long one delivery may take.
const CALL: Duration = Duration::from_secs(5);

/// How long the last events may take when the shim ends.
const DRAIN: Duration = Duration::from_secs(3);

/// The pause between two offers of one event: doubled from the first value up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The environment variable that names containerd's ttrpc socket.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// The receiver of events.
#[derive(Debug, Clone)]
pub enum Target {
    /// containerd's ttrpc socket (`TTRPC_ADDRESS`).
    Socket(PathBuf),
    /// A command that publishes one event from its stdin.
    Command {
        /// The binary.
        binary: PathBuf,
        /// containerd's gRPC socket.
        address: String,
    },
    /// No receiver: CRI-O takes no events and says so by an empty `TTRPC_ADDRESS`. Its own
    /// binary would fail for each event.
    Nobody,
}

impl Target {
    /// The socket if containerd named one, else the command.
    pub fn new(ttrpc_address: Option<&str>, binary: &str, address: &str) -> Self {
        match ttrpc_address {
            Some("") => Self::Nobody,
            Some(text) => Self::Socket(PathBuf::from(text.trim_start_matches("unix://"))),
            None => Self::Command {
                binary: PathBuf::from(binary),
                address: address.to_owned(),
            },
        }
    }
}

/// The two tasks that publish a pod's events.
pub struct Publisher {
    forward: JoinHandle<()>,
    deliver: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Publisher {
    /// Starts publishing.
    pub fn start(
        target: Target,
        namespace: String,
        events: mpsc::UnboundedReceiver<PodEvent>,
        requests: Arc<Requests>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (queue, queued) = mpsc::channel(QUEUE);
        Self {
            forward: tokio::spawn(forward(events, queue, namespace, requests, stopped)),
            deliver: tokio::spawn(deliver(queued, Delivery::new(target))),
            stop,
        }
    }

    /// Publishes the events so far, within [`DRAIN`].
    pub async fn finish(self) {
        self.stop.send_replace(true);
        let all = async {
            let _ = self.forward.await;
            let _ = self.deliver.await;
        };
        if timeout(DRAIN, all).await.is_err() {
            log::warn!("Not all events could be handed to containerd");
        }
    }
}

async fn forward(
    mut events: mpsc::UnboundedReceiver<PodEvent>,
    queue: mpsc::Sender<(Instant, Envelope)>,
    namespace: String,
    requests: Arc<Requests>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            // Events sent before still arrive after `close`.
            _ = stopped.wait_for(|stop| *stop), if !events.is_closed() => {
                events.close();
                continue;
            }
        };
        let Some(event) = event else { return };
        log::debug!("{event:?}");
        if event.exec().is_some_and(is_foreign_exec) {
            continue;
        }
        match envelope(&namespace, event, &requests) {
            Ok(envelope) => {
                if let Err(error) = queue.try_send((Instant::now(), envelope)) {
                    log::error!("An event is lost: {error}");
                }
            }
            Err(error) => log::error!("An event cannot be encoded: {error}"),
        }
    }
}

async fn deliver(mut queue: mpsc::Receiver<(Instant, Envelope)>, mut delivery: Delivery) {
    while let Some((since, envelope)) = queue.recv().await {
        let mut pause = PAUSE.0;
        while let Err(refusal) = delivery.offer(&envelope).await {
            let topic = &envelope.topic;
            if refusal.is_final() || since.elapsed() > KEEP {
                log::error!("PodEvent {topic} is lost: {refusal}");
                break;
            }
            log::debug!("PodEvent {topic} waits: {refusal}");
            sleep(pause).await;
            pause = PAUSE.1.min(pause * 2);
        }
    }
}

/// The reason why an event was not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("cannot connect to containerd: {0}")]
    Connect(io::Error),
    #[error("containerd did not answer in time")]
    Timeout,
    #[error("containerd answered with an error: {0}")]
    Answer(ttrpc::Error),
    #[error("{0} failed: {1}")]
    Command(PathBuf, String),
}

impl Refusal {
    /// Whether another offer would be refused, too.
    fn is_final(&self) -> bool {
        use ttrpc::Code;
        matches!(
            self,
            Self::Answer(ttrpc::Error::RpcStatus(status))
                if matches!(status.code(), Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED)
        )
    }
}

/// Delivers events to containerd; keeps the connection while it works.
struct Delivery {
    target: Target,
    client: Option<EventsClient>,
}

impl Delivery {
    fn new(target: Target) -> Self {
        Self {
            target,
            client: None,
        }
    }

    async fn offer(&mut self, envelope: &Envelope) -> Result<(), Refusal> {
        let attempt = async {
            match &self.target {
                Target::Socket(path) => {
                    let client = match &self.client {
                        Some(client) => client,
                        None => self.client.insert(connect(path).await?),
                    };
                    let request = ForwardRequest {
                        envelope: MessageField::some(envelope.clone()),
                        ..ForwardRequest::default()
                    };
                    let context = ttrpc::context::with_duration(CALL);
                    let answer = client.forward(context, &request).await;
                    answer.map(drop).map_err(Refusal::Answer)
                }
                Target::Command { binary, address } => {
                    let run = publish(binary, address, envelope).await;
                    run.map_err(|error| Refusal::Command(binary.clone(), error))
                }
                Target::Nobody => Ok(()),
            }
        };
        let result = timeout(CALL, attempt)
            .await
            .unwrap_or(Err(Refusal::Timeout));
        if result.is_err() {
            self.client = None;
        }
        result
    }
}

async fn connect(path: &PathBuf) -> Result<EventsClient, Refusal> {
    let stream = UnixStream::connect(path).await.map_err(Refusal::Connect)?;
    Ok(EventsClient::new(Client::new(Socket::from(stream))))
}

/// Runs `<binary> -address A publish -topic T -namespace N` with the event on stdin.
async fn publish(binary: &PathBuf, address: &str, envelope: &Envelope) -> Result<(), String> {
    let event = envelope.event.write_to_bytes().map_err(|e| e.to_string())?;
    let mut child = Command::new(binary)
        .args(["-address", address, "publish"])
        .args(["-topic", &envelope.topic])
        .args(["-namespace", &envelope.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(&event).await {
            // It has ended: its status says more.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(|e| e.to_string())?,
        }
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(status.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use protobuf::well_known_types::empty::Empty;
    use std::path::Path;
    use std::sync::Mutex;
    use ttrpc::r#async::{Server, TtrpcContext};

    #[derive(Default)]
    struct Containerd(Mutex<Vec<String>>);

    #[async_trait]
    impl Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            self.0.lock().unwrap().push(request.envelope.topic.clone());
            Ok(Empty::new())
        }
    }

    async fn serve(path: &Path, containerd: &Arc<Containerd>) -> Server {
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .unwrap()
            .register_service(create_events(containerd.clone()));
        server.start().await.unwrap();
        server
    }

    fn started(pid: u32) -> PodEvent {
        PodEvent::Started {
            container: "c".into(),
            pid,
        }
    }

    #[tokio::test]
    async fn events_wait_for_containerd_and_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (events, receiver) = mpsc::unbounded_channel();
        let target = Target::new(path.to_str(), "", "");
        let publisher = Publisher::start(target, "ns".into(), receiver, Arc::default());
        events.send(started(1)).unwrap();
        events
            .send(PodEvent::Paused {
                container: "c".into(),
            })
            .unwrap();
        // Let the first offers fail.
        tokio::task::yield_now().await;

        let containerd = Arc::new(Containerd::default());
        let mut server = serve(&path, &containerd).await;
        events
            .send(PodEvent::Resumed {
                container: "c".into(),
            })
            .unwrap();
        publisher.finish().await;

        let topics = containerd.0.lock().unwrap().clone();
        assert_eq!(topics, ["/tasks/start", "/tasks/paused", "/tasks/resumed"]);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn the_command_gets_the_event_on_stdin() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("publish");
        let out = dir.path().join("out");
        let script = format!("#!/bin/sh\necho \"$@\" > {0}; cat >> {0}\n", out.display());
        std::fs::write(&binary, script).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (events, receiver) = mpsc::unbounded_channel();
        let target = Target::new(None, binary.to_str().unwrap(), "/c.sock");

        let publisher = Publisher::start(target, "ns".into(), receiver, Arc::default());
        events.send(started(1)).unwrap();
        publisher.finish().await;

        let text = String::from_utf8_lossy(&std::fs::read(&out).unwrap()).into_owned();
        assert!(
            text.starts_with("-address /c.sock publish -topic /tasks/start -namespace ns\n"),
            "{text}"
        );
        assert!(text.contains("containerd.events.TaskStart"), "{text}");
    }

    #[test]
    fn the_receiver_is_what_containerd_names() {
        let socket = |target| match target {
            Target::Socket(path) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(socket(Target::new(Some("/s"), "b", "a")), Path::new("/s"));
        assert_eq!(
            socket(Target::new(Some("unix:///s"), "b", "a")),
            Path::new("/s")
        );
        assert!(matches!(Target::new(Some(""), "b", "a"), Target::Nobody));
        let command = Target::new(None, "b", "a");
        assert!(matches!(
            command,
            Target::Command { binary, address } if binary == Path::new("b") && address == "a"
        ));
    }

    #[test]
    fn only_what_is_refused_for_good_is_not_offered_again() {
        use ttrpc::Code;
        let answer = |code| Refusal::Answer(ttrpc::error::get_rpc_status(code, "x"));
        for (refusal, is_final) in [
            (answer(Code::INVALID_ARGUMENT), true),
            (answer(Code::UNIMPLEMENTED), true),
            (answer(Code::UNAVAILABLE), false),
            (Refusal::Timeout, false),
            (Refusal::Connect(io::ErrorKind::NotFound.into()), false),
            (Refusal::Command("b".into(), "1".into()), false),
        ] {
            assert_eq!(refusal.is_final(), is_final, "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_named_and_nobody_takes_everything() {
        let envelope = envelope("ns", started(1), &Requests::default()).unwrap();
        let mut nobody = Delivery::new(Target::Nobody);
        nobody.offer(&envelope).await.unwrap();
        for (binary, why) in [
            ("/bin/false", "exit status: 1"),
            ("/no/such", "No such file"),
        ] {
            let mut failing = Delivery::new(Target::new(None, binary, ""));
            let refusal = failing.offer(&envelope).await.unwrap_err().to_string();
            assert!(
                refusal.contains(binary) && refusal.contains(why),
                "{refusal}"
            );
        }
        let mut unheard = Delivery::new(Target::new(Some("/no/such"), "", ""));
        assert!(matches!(
            unheard.offer(&envelope).await,
            Err(Refusal::Connect(_))
        ));
    }

    #[tokio::test]
    async fn the_execs_of_rust_kata_are_not_containerds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let containerd = Arc::new(Containerd::default());
        let mut server = serve(&path, &containerd).await;
        let (events, receiver) = mpsc::unbounded_channel();
        let target = Target::new(path.to_str(), "", "");
        let publisher = Publisher::start(target, "ns".into(), receiver, Arc::default());
        let foreign = (0..).map(|n| format!("rust-kata-{n}"));
        let foreign = foreign.take(1).chain(["e".to_owned()]);
        let mut expected = Vec::new();
        for exec in foreign {
            if !is_foreign_exec(&exec) {
                expected.push("/tasks/exec-added".to_owned());
            }
            let container = "c".into();
            events
                .send(PodEvent::ExecAdded { container, exec })
                .unwrap();
        }
        publisher.finish().await;
        assert_eq!(*containerd.0.lock().unwrap(), expected);
        server.shutdown().await.unwrap();
    }
}
