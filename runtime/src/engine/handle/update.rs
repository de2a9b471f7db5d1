//! Changing the limits of a container.

use oci_spec::runtime::LinuxResources;

use super::PodHandle;

use crate::engine::journal::Event;
use crate::engine::records;
use crate::engine::records::limits::put_over;
use crate::engine::records::view::PodView;
use crate::engine::wire::changes::update_request;
use crate::error::Result;

impl PodHandle {
    /// Changes limits of a container: at once if it runs, and for every later start. Limits
    /// that are not given stay.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; the guest's.
    pub async fn update(&self, container: &str, resources: &LinuxResources) -> Result<()> {
        let request = update_request(container, resources)?;
        let updated = self.ask(|owner| owner.update(request.clone()));
        let held = match updated.await? {
            Ok(_) => return Ok(()),
            Err(held) => held,
        };
        let view = PodView::read_locked(&self.paths, &held)?;
        let files = view.container(container)?;
        let mut state = files.state.clone();
        put_over(state.limits.get_or_insert_default(), resources);
        let paths = self.paths.container(container)?;
        records::write_container(&paths, &state, &held)?;
        let event = Event::container(&view.definition, &files.definition, "update");
        self.paths.journal().append_or_warn(event);
        Ok(())
    }
}
