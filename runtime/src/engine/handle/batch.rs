//! Many changes of one pod in a row, with nobody else's in between.

use oci_spec::runtime::LinuxResources;
use protos::management as api;
use protos::management::operation::Kind;

use super::client;
use crate::engine::handle::{PodHandle, request, stop_request};
use crate::engine::owner::Owner;
use crate::engine::status::Outcome;
use crate::error::{Error, Result};

/// One change of some containers of a pod; of all, if none is named.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Builds them up to where their inits wait.
    Init(Vec<String>),
    /// Starts them; with `dependencies`, first those that they depend on.
    Start {
        /// Which.
        containers: Vec<String>,
        /// What they depend on, too.
        dependencies: bool,
    },
    /// Stops them; the VM stays.
    Stop {
        /// Which.
        containers: Vec<String>,
        /// Instead of each container's own time; 0 kills at once.
        seconds: Option<u32>,
    },
    /// Stops and starts them.
    Restart {
        /// Which.
        containers: Vec<String>,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Freezes them.
    Pause(Vec<String>),
    /// Thaws them.
    Unpause(Vec<String>),
    /// Sends them a signal.
    Kill {
        /// Which.
        containers: Vec<String>,
        /// The signal.
        signal: u32,
        /// Every process, not their inits alone.
        all: bool,
    },
    /// Removes them.
    Remove {
        /// Which.
        containers: Vec<String>,
        /// Those that run are stopped first.
        force: bool,
        /// As for `Stop`.
        seconds: Option<u32>,
    },
    /// Changes the limits of one.
    Update {
        /// Which.
        container: String,
        /// What is given is changed, the rest stays.
        resources: Box<LinuxResources>,
    },
}

impl PodHandle {
    /// Makes changes one after the other; no other operation on the pod comes
    /// in between, and its VM does not end before the last one is made. What
    /// goes wrong with one does not keep the others.
    ///
    /// # Errors
    /// That of the owner; that of each change is in its place.
    pub async fn batch(&self, changes: &[Change]) -> Result<Vec<Result<Outcome>>> {
        let operations: Vec<_> = changes.iter().map(to_operation).collect::<Result<_>>()?;
        let request = api::BatchRequest {
            operations,
            ..Default::default()
        };
        // Twice would do harm: an owner that has gone is not asked again.
        let answered = loop {
            match self.ensure_owner().await?.batch(request.clone()).await {
                Err(Error::OwnerLeaving) => self.owner_ended().await?,
                other => break other?,
            }
        };
        let answers = answered.answers.into_iter();
        Ok(answers
            .map(|answer| match answer.failed.into_option() {
                Some(failed) => Err(client::error_of(failed).unwrap_or_else(broken)),
                None => Ok(client::to_outcome(answer.results.unwrap_or_default())),
            })
            .collect())
    }

    /// Asks the guest how containers stand, and writes down where that is not
    /// what is on record: the done ones of the outcome.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
    pub async fn sync(&self, containers: &[String]) -> Result<Outcome> {
        let synced = self.ask(async |owner| owner.sync(request(containers, false)).await);
        match synced.await? {
            Ok(results) => Ok(client::to_outcome(results)),
            Err(held) => {
                let mut view =
                    crate::engine::records::view::PodView::read_locked(&self.home, &held)?;
                let changed = view.unsettled();
                view.settle(&held)?;
                let chosen = view.chosen(containers)?.into_iter();
                let (done, ignored) = chosen.partition(|name| changed.contains(name));
                Ok(Outcome {
                    done,
                    ignored,
                    ..Outcome::default()
                })
            }
        }
    }
}

impl Owner {
    /// Makes changes one after the other, with nobody else's in between.
    ///
    /// # Errors
    /// [`Error::OwnerLeaving`]; that of a change is in the answer.
    pub async fn batch(
        self: &std::sync::Arc<Self>,
        operations: Vec<api::Operation>,
    ) -> Result<api::BatchResponse> {
        let _op = self.op.lock().await;
        self.stays()?;
        let mut response = api::BatchResponse::default();
        for operation in operations {
            let made = match to_change(operation) {
                Ok(change) => self.change_locked(change).await,
                Err(e) => Err(e),
            };
            let mut answer = api::BatchAnswer::default();
            match made {
                Ok(outcome) => answer.results = Some(client::to_results(outcome)).into(),
                Err(e) => {
                    answer.failed = Some(client::to_result(String::new(), Some(&e), false)).into();
                }
            }
            response.answers.push(answer);
        }
        self.end_if_unused_locked().await;
        Ok(response)
    }

    async fn change_locked(self: &std::sync::Arc<Self>, change: Change) -> Result<Outcome> {
        use crate::engine::status::Operation;
        match change {
            Change::Init(names) => self.init_locked(&names).await,
            Change::Start {
                containers,
                dependencies,
            } => self.start_locked(&containers, dependencies).await,
            Change::Stop {
                containers,
                seconds,
            } => self.stop_locked(&containers, seconds).await,
            Change::Restart {
                containers,
                seconds,
            } => self.restart_locked(&containers, seconds).await,
            Change::Pause(names) => self.freeze_locked(Operation::Pause, &names).await,
            Change::Unpause(names) => self.freeze_locked(Operation::Unpause, &names).await,
            Change::Kill {
                containers,
                signal,
                all,
            } => self.kill(&containers, signal, all).await,
            Change::Remove {
                containers,
                force,
                seconds,
            } => self.remove_locked(&containers, force, seconds).await,
            Change::Update {
                container,
                resources,
            } => {
                let mut outcome = Outcome::default();
                let updated = self.update_locked(&container, &resources).await;
                outcome.add(&container, updated);
                Ok(outcome)
            }
        }
    }
}

fn to_operation(change: &Change) -> Result<api::Operation> {
    let kind = match change {
        Change::Init(names) => Kind::Init(request(names, false)),
        Change::Start {
            containers,
            dependencies,
        } => Kind::Start(request(containers, *dependencies)),
        Change::Stop {
            containers,
            seconds,
        } => Kind::Stop(stop_request(containers, *seconds)),
        Change::Restart {
            containers,
            seconds,
        } => Kind::Restart(stop_request(containers, *seconds)),
        Change::Pause(names) => Kind::Pause(request(names, false)),
        Change::Unpause(names) => Kind::Unpause(request(names, false)),
        Change::Kill {
            containers,
            signal,
            all,
        } => Kind::Kill(api::KillRequest {
            containers: containers.clone(),
            signal: *signal,
            all: *all,
            ..Default::default()
        }),
        Change::Remove {
            containers,
            force,
            seconds,
        } => Kind::Remove(api::RemoveRequest {
            containers: containers.clone(),
            force: *force,
            timeout: *seconds,
            ..Default::default()
        }),
        Change::Update {
            container,
            resources,
        } => Kind::Update(update_request(container, resources)?),
    };
    Ok(api::Operation {
        kind: Some(kind),
        ..Default::default()
    })
}

fn to_change(operation: api::Operation) -> Result<Change> {
    Ok(match operation.kind {
        Some(Kind::Init(r)) => Change::Init(r.containers),
        Some(Kind::Start(r)) => Change::Start {
            containers: r.containers,
            dependencies: r.dependencies,
        },
        Some(Kind::Stop(r)) => Change::Stop {
            containers: r.containers,
            seconds: r.timeout,
        },
        Some(Kind::Restart(r)) => Change::Restart {
            containers: r.containers,
            seconds: r.timeout,
        },
        Some(Kind::Pause(r)) => Change::Pause(r.containers),
        Some(Kind::Unpause(r)) => Change::Unpause(r.containers),
        Some(Kind::Kill(r)) => Change::Kill {
            containers: r.containers,
            signal: r.signal,
            all: r.all,
        },
        Some(Kind::Remove(r)) => Change::Remove {
            containers: r.containers,
            force: r.force,
            seconds: r.timeout,
        },
        Some(Kind::Update(r)) => Change::Update {
            resources: Box::new(parse_resources(&r.resources)?),
            container: r.container,
        },
        _ => return Err(Error::Unsupported("This change".into())),
    })
}

/// New limits, as they travel: OCI `LinuxResources` as JSON.
pub(in crate::engine) fn update_request(
    container: &str,
    resources: &LinuxResources,
) -> Result<api::UpdateRequest> {
    Ok(api::UpdateRequest {
        container: container.to_owned(),
        resources: serde_json::to_vec(resources).map_err(|e| Error::Internal(e.to_string()))?,
        ..Default::default()
    })
}

/// New limits, from OCI `LinuxResources` as JSON.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    serde_json::from_slice(json).map_err(|e| {
        Error::Invalid(format!(
            "The resources to update are not OCI LinuxResources: {e}"
        ))
    })
}

fn broken() -> Error {
    Error::Internal("The owner's answer cannot be read".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_travel() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let mut resources = LinuxResources::default();
        resources.set_pids(Some(Default::default()));
        let changes = [
            Change::Init(names.clone()),
            Change::Start {
                containers: names.clone(),
                dependencies: true,
            },
            Change::Stop {
                containers: Vec::new(),
                seconds: Some(0),
            },
            Change::Restart {
                containers: names.clone(),
                seconds: None,
            },
            Change::Pause(names.clone()),
            Change::Unpause(Vec::new()),
            Change::Kill {
                containers: names.clone(),
                signal: 9,
                all: true,
            },
            Change::Remove {
                containers: names,
                force: true,
                seconds: Some(3),
            },
            Change::Update {
                container: "a".into(),
                resources: Box::new(resources),
            },
        ];
        for change in changes {
            let operation = to_operation(&change).unwrap();
            assert_eq!(to_change(operation).unwrap(), change);
        }
        assert!(to_change(api::Operation::default()).is_err());
    }
}
