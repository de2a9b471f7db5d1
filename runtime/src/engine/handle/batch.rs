//! Several changes of one pod in a row, without other operations in between.

use protos::management as api;

use crate::engine::handle::PodHandle;
use crate::engine::status::Outcome;
use crate::engine::wire::changes::{Change, request, to_operation};
use crate::engine::wire::errors;
use crate::error::{Error, OwnerError, Result};

impl PodHandle {
    /// Makes changes one after the other. No other operation on the pod runs in between, and
    /// its VM does not end before the last change. If one change fails, the others are still
    /// made.
    ///
    /// # Errors
    /// The owner's; the error of each change is in its place.
    pub async fn batch(&self, changes: &[Change]) -> Result<Vec<Result<Outcome>>> {
        let operations: Vec<_> = changes.iter().map(to_operation).collect::<Result<_>>()?;
        let request = api::BatchRequest {
            operations,
            ..Default::default()
        };
        // A batch is not safe to repeat: it is not sent again if the owner has ended.
        let answered = loop {
            match self.ensure_owner().await?.batch(request.clone()).await {
                Err(Error::OwnerLeaving) => self.owner_ended().await?,
                other => break other?,
            }
        };
        let answers = answered.answers.into_iter();
        Ok(answers
            .map(|answer| match answer.failed.into_option() {
                Some(failed) => Err(errors::error_of(failed).unwrap_or_else(broken)),
                None => Ok(errors::to_outcome(answer.results.unwrap_or_default())),
            })
            .collect())
    }

    /// Asks the guest for the state of containers and corrects their records; the outcome lists
    /// the corrected containers as done.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn sync(&self, containers: &[String]) -> Result<Outcome> {
        let synced = self.ask(|owner| owner.sync(request(containers, false)));
        match synced.await? {
            Ok(results) => Ok(errors::to_outcome(results)),
            Err(held) => {
                let mut view =
                    crate::engine::records::view::PodView::read_locked(&self.paths, &held)?;
                let changed = view.lost_containers();
                view.record_losses(&held)?;
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

fn broken() -> Error {
    OwnerError::Answer("results are missing".into()).into()
}
