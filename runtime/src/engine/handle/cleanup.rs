//! Cleaning up on the host and in the VM after the last run of a container, without removing
//! it.

use crate::engine::handle::PodHandle;
use crate::engine::journal::Event;
use crate::engine::records::cleanup::{clean, may_clean};
use crate::engine::records::view::PodView;
use crate::engine::status::Outcome;
use crate::engine::wire::changes::request;
use crate::engine::wire::errors;
use crate::error::Result;

impl PodHandle {
    /// Removes the remains of containers that do not run: mounts, the bundle of the last start,
    /// and a container in the VM that was built and never started.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn cleanup(&self, containers: &[String]) -> Result<Outcome> {
        let cleaned = self.ask(|owner| owner.cleanup(request(containers, false)));
        let held = match cleaned.await? {
            Ok(results) => return Ok(errors::to_outcome(results)),
            Err(held) => held,
        };
        let view = PodView::read_for_change(&self.paths, &held)?;
        let mut outcome = Outcome::default();
        for name in view.chosen(containers)? {
            let files = view.container(&name)?;
            let cleaned =
                may_clean(&name, &files.state).and_then(|()| clean(&self.paths.container(&name)?));
            if cleaned.is_ok() {
                let event = Event::container(&view.definition, &files.definition, "cleanup");
                self.paths.journal().append_or_warn(event);
            }
            outcome.add(&name, cleaned);
        }
        Ok(outcome)
    }
}
