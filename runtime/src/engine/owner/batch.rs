//! Several changes in a row, without other operations in between.

use protos::management as api;

use super::Owner;
use super::stop::Locking;
use crate::engine::status::{Operation, Outcome};
use crate::engine::wire::changes::{Change, to_change};
use crate::engine::wire::errors;
use crate::error::Result;

impl Owner {
    /// Makes changes one after the other, without other operations in between.
    ///
    /// # Errors
    /// [`crate::Error::OwnerLeaving`]; the error of a change is in the answer.
    pub async fn batch(
        self: &std::sync::Arc<Self>,
        operations: Vec<api::Operation>,
    ) -> Result<api::BatchResponse> {
        let _batch = self.batch.write().await;
        let _op = self.op.lock().await;
        self.ensure_not_leaving()?;
        let mut response = api::BatchResponse::default();
        for operation in operations {
            let made = match to_change(operation) {
                Ok(change) => self.change_locked(change).await,
                Err(e) => Err(e),
            };
            let mut answer = api::BatchAnswer::default();
            match made {
                Ok(outcome) => answer.results = Some(errors::to_results(outcome)).into(),
                Err(e) => {
                    answer.failed = Some(errors::to_result(String::new(), Some(&e), false)).into();
                }
            }
            response.answers.push(answer);
        }
        self.end_if_unused_locked().await;
        Ok(response)
    }

    async fn change_locked(self: &std::sync::Arc<Self>, change: Change) -> Result<Outcome> {
        match change {
            Change::Init(names) => self.init_locked(&names).await,
            Change::Start {
                containers,
                dependencies,
            } => self.start_locked(&containers, dependencies).await,
            Change::Stop {
                containers,
                seconds,
            } => {
                self.stop_containers(&containers, seconds, Locking::Held)
                    .await
            }
            Change::Restart {
                containers,
                seconds,
            } => {
                self.restart_containers(&containers, seconds, Locking::Held)
                    .await
            }
            Change::Pause(names) => self.freeze_locked(Operation::Pause, &names).await,
            Change::Unpause(names) => self.freeze_locked(Operation::Unpause, &names).await,
            Change::Kill {
                containers,
                signal,
                all,
            } => self.send_signal(&containers, signal, all).await,
            Change::Remove {
                containers,
                force,
                seconds,
            } => {
                self.remove_containers(&containers, force, seconds, Locking::Held)
                    .await
            }
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
