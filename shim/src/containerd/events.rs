//! The pod's events as containerd's.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::topics::*;
use protobuf::{MessageField, MessageFull};
use runtime::PodEvent;

use crate::containerd::proto::{any, timestamp};

/// The create requests of the containers: `TaskCreate` repeats them. Each is kept until the
/// container is deleted.
#[derive(Default)]
pub struct Requests(Mutex<HashMap<String, CreateTaskRequest>>);

impl Requests {
    /// Remembers a request; false if its id is known already.
    pub fn remember(&self, request: &CreateTaskRequest) -> bool {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = map.contains_key(&request.id);
        if !known {
            map.insert(request.id.clone(), request.clone());
        }
        !known
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(id);
    }

    fn of(&self, id: &str) -> CreateTaskRequest {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(id).cloned().unwrap_or_default()
    }
}

/// Converts an event of the pod into containerd's, with the current time.
pub fn envelope(
    namespace: &str,
    event: PodEvent,
    requests: &Requests,
) -> protobuf::Result<Envelope> {
    match event {
        PodEvent::Created { container, pid } => {
            let request = requests.of(&container);
            let io = TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..TaskIO::default()
            };
            let event = TaskCreate {
                container_id: container,
                bundle: request.bundle,
                rootfs: request.rootfs,
                io: MessageField::some(io),
                checkpoint: request.checkpoint,
                pid,
                ..TaskCreate::default()
            };
            wrap(namespace, TASK_CREATE_EVENT_TOPIC, &event)
        }
        PodEvent::Started { container, pid } => {
            let event = TaskStart {
                container_id: container,
                pid,
                ..TaskStart::default()
            };
            wrap(namespace, TASK_START_EVENT_TOPIC, &event)
        }
        PodEvent::ExecAdded { container, exec } => {
            let event = TaskExecAdded {
                container_id: container,
                exec_id: exec,
                ..TaskExecAdded::default()
            };
            wrap(namespace, TASK_EXEC_ADDED_EVENT_TOPIC, &event)
        }
        PodEvent::ExecStarted {
            container,
            exec,
            pid,
        } => {
            let event = TaskExecStarted {
                container_id: container,
                exec_id: exec,
                pid,
                ..TaskExecStarted::default()
            };
            wrap(namespace, TASK_EXEC_STARTED_EVENT_TOPIC, &event)
        }
        PodEvent::Exited {
            container,
            exec,
            pid,
            exit,
        } => {
            // The id of an init process is its container's: containerd tells init and exec
            // processes apart by it.
            let event = TaskExit {
                id: exec.unwrap_or_else(|| container.clone()),
                container_id: container,
                pid,
                exit_status: exit.status,
                exited_at: timestamp(exit.at),
                ..TaskExit::default()
            };
            wrap(namespace, TASK_EXIT_EVENT_TOPIC, &event)
        }
        PodEvent::Deleted {
            container,
            pid,
            exit,
        } => {
            requests.forget(&container);
            let event = TaskDelete {
                container_id: container,
                pid,
                exit_status: exit.status,
                exited_at: timestamp(exit.at),
                ..TaskDelete::default()
            };
            wrap(namespace, TASK_DELETE_EVENT_TOPIC, &event)
        }
        PodEvent::Paused { container } => {
            let event = TaskPaused {
                container_id: container,
                ..TaskPaused::default()
            };
            wrap(namespace, TASK_PAUSED_EVENT_TOPIC, &event)
        }
        PodEvent::Resumed { container } => {
            let event = TaskResumed {
                container_id: container,
                ..TaskResumed::default()
            };
            wrap(namespace, TASK_RESUMED_EVENT_TOPIC, &event)
        }
        PodEvent::Oom { container } => {
            let event = TaskOOM {
                container_id: container,
                ..TaskOOM::default()
            };
            wrap(namespace, TASK_OOM_EVENT_TOPIC, &event)
        }
    }
}

fn wrap<M: MessageFull>(namespace: &str, topic: &str, event: &M) -> protobuf::Result<Envelope> {
    Ok(Envelope {
        timestamp: timestamp(SystemTime::now()),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: MessageField::some(any(event)?),
        ..Envelope::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;
    use runtime::Exit;

    fn exit(exec: Option<&str>) -> TaskExit {
        let event = PodEvent::Exited {
            container: "c".into(),
            exec: exec.map(str::to_owned),
            pid: 7,
            exit: Exit {
                status: 42,
                at: SystemTime::now(),
            },
        };
        let envelope = envelope("ns", event, &Requests::default()).unwrap();
        assert_eq!(envelope.topic, "/tasks/exit");
        assert_eq!(envelope.namespace, "ns");
        assert_eq!(envelope.event.type_url, "containerd.events.TaskExit");
        TaskExit::parse_from_bytes(&envelope.event.value).unwrap()
    }

    #[test]
    fn an_exit_carries_the_process() {
        assert_eq!(exit(None).id, "c");
        let of_exec = exit(Some("e"));
        assert_eq!(
            (of_exec.container_id.as_str(), of_exec.id.as_str()),
            ("c", "e")
        );
        assert_eq!((of_exec.pid, of_exec.exit_status), (7, 42));
    }

    #[test]
    fn a_create_event_repeats_the_request() {
        let requests = Requests::default();
        requests.remember(&CreateTaskRequest {
            id: "c".into(),
            bundle: "/b".into(),
            stdout: "/o".into(),
            terminal: true,
            ..CreateTaskRequest::default()
        });
        let created = PodEvent::Created {
            container: "c".into(),
            pid: 3,
        };

        let envelope = envelope("ns", created, &requests).unwrap();

        let event = TaskCreate::parse_from_bytes(&envelope.event.value).unwrap();
        assert_eq!((event.bundle.as_str(), event.pid), ("/b", 3));
        assert_eq!(event.io.stdout, "/o");
        assert!(event.io.terminal);
    }

    /// The topic, the type and the message of an event.
    fn wrapped<M: MessageFull>(event: PodEvent) -> (String, String, M) {
        let requests = Requests::default();
        let envelope = envelope("ns", event, &requests).unwrap();
        assert!(envelope.timestamp.seconds > 0);
        assert_eq!(envelope.namespace, "ns");
        let message = M::parse_from_bytes(&envelope.event.value).unwrap();
        (envelope.topic, envelope.event.type_url.clone(), message)
    }

    #[track_caller]
    fn check<M: MessageFull + PartialEq>(event: PodEvent, topic: &str, expected: M) {
        let (found, url, message) = wrapped::<M>(event);
        let name = M::descriptor().full_name().to_owned();
        assert_eq!((found.as_str(), url), (topic, name));
        assert_eq!(message, expected);
    }

    #[test]
    fn each_event_is_told_as_a_whole() {
        let c = || String::from("c");
        let e = || String::from("e");
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::new(5, 6);
        let exit = Exit { status: 42, at };
        check(
            PodEvent::Started {
                container: c(),
                pid: 7,
            },
            "/tasks/start",
            TaskStart {
                container_id: c(),
                pid: 7,
                ..TaskStart::default()
            },
        );
        check(
            PodEvent::ExecAdded {
                container: c(),
                exec: e(),
            },
            "/tasks/exec-added",
            TaskExecAdded {
                container_id: c(),
                exec_id: e(),
                ..TaskExecAdded::default()
            },
        );
        check(
            PodEvent::ExecStarted {
                container: c(),
                exec: e(),
                pid: 7,
            },
            "/tasks/exec-started",
            TaskExecStarted {
                container_id: c(),
                exec_id: e(),
                pid: 7,
                ..TaskExecStarted::default()
            },
        );
        check(
            PodEvent::Exited {
                container: c(),
                exec: Some(e()),
                pid: 7,
                exit,
            },
            "/tasks/exit",
            TaskExit {
                container_id: c(),
                id: e(),
                pid: 7,
                exit_status: 42,
                exited_at: timestamp(at),
                ..TaskExit::default()
            },
        );
        check(
            PodEvent::Deleted {
                container: c(),
                pid: 7,
                exit,
            },
            "/tasks/delete",
            TaskDelete {
                container_id: c(),
                pid: 7,
                exit_status: 42,
                exited_at: timestamp(at),
                ..TaskDelete::default()
            },
        );
        check(
            PodEvent::Paused { container: c() },
            "/tasks/paused",
            TaskPaused {
                container_id: c(),
                ..TaskPaused::default()
            },
        );
        check(
            PodEvent::Resumed { container: c() },
            "/tasks/resumed",
            TaskResumed {
                container_id: c(),
                ..TaskResumed::default()
            },
        );
        check(
            PodEvent::Oom { container: c() },
            "/tasks/oom",
            TaskOOM {
                container_id: c(),
                ..TaskOOM::default()
            },
        );
    }

    #[test]
    fn a_request_is_remembered_until_its_container_is_deleted() {
        let requests = Requests::default();
        let request = CreateTaskRequest {
            id: "c".into(),
            bundle: "/b".into(),
            stdin: "/i".into(),
            stdout: "/o".into(),
            stderr: "/e".into(),
            checkpoint: "/p".into(),
            terminal: true,
            rootfs: vec![Default::default()],
            ..CreateTaskRequest::default()
        };
        assert!(requests.remember(&request) && !requests.remember(&request));
        let told = |event| {
            let envelope = envelope("ns", event, &requests).unwrap();
            TaskCreate::parse_from_bytes(&envelope.event.value)
        };
        let created = || PodEvent::Created {
            container: "c".into(),
            pid: 3,
        };
        let expected = TaskCreate {
            container_id: "c".into(),
            bundle: "/b".into(),
            rootfs: vec![Default::default()],
            io: MessageField::some(TaskIO {
                stdin: "/i".into(),
                stdout: "/o".into(),
                stderr: "/e".into(),
                terminal: true,
                ..TaskIO::default()
            }),
            checkpoint: "/p".into(),
            pid: 3,
            ..TaskCreate::default()
        };
        assert_eq!(told(created()).unwrap(), expected);
        let exit = Exit {
            status: 0,
            at: SystemTime::now(),
        };
        let deleted = PodEvent::Deleted {
            container: "c".into(),
            pid: 3,
            exit,
        };
        told(deleted).unwrap();
        assert_eq!(told(created()).unwrap().bundle, "");
        assert!(requests.remember(&request));
        requests.forget("c");
        assert!(requests.remember(&request));
    }
}
