//! Limits of a container that were changed after it was defined.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::PodHandle;
use super::batch::update_request;
use crate::engine::journal::Event;
use crate::engine::records;
use crate::engine::records::view::PodView;
use crate::error::Result;

impl PodHandle {
    /// Changes limits of a container: at once if it runs, and for every later
    /// start. What is not given stays.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; the guest's.
    pub async fn update(&self, container: &str, resources: &LinuxResources) -> Result<()> {
        let request = update_request(container, resources)?;
        let updated = self.ask(async |owner| owner.update(request.clone()).await);
        let held = match updated.await? {
            Ok(_) => return Ok(()),
            Err(held) => held,
        };
        let view = PodView::read_locked(&self.home, &held)?;
        let files = view.container(container)?;
        let mut state = files.state.clone();
        put_over(state.limits.get_or_insert_default(), resources);
        let home = self.home.container(container)?;
        records::write_container(&home, &state, &held)?;
        let event = Event::container(&view.definition, &files.definition, "update");
        self.home.journal().tell(event);
        Ok(())
    }
}

/// Puts limits over those that are there, one by one.
pub(crate) fn put_over(there: &mut LinuxResources, given: &LinuxResources) {
    if let Some(cpu) = given.cpu() {
        let mut merged: LinuxCpu = there.cpu().clone().unwrap_or_default();
        merged.set_quota(cpu.quota().or(merged.quota()));
        merged.set_period(cpu.period().or(merged.period()));
        merged.set_shares(cpu.shares().or(merged.shares()));
        there.set_cpu(Some(merged));
    }
    if let Some(memory) = given.memory() {
        let mut merged: LinuxMemory = there.memory().unwrap_or_default();
        merged.set_limit(memory.limit().or(merged.limit()));
        merged.set_reservation(memory.reservation().or(merged.reservation()));
        merged.set_swap(memory.swap().or(merged.swap()));
        there.set_memory(Some(merged));
    }
    if let Some(pids) = given.pids() {
        there.set_pids(Some(*pids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_given_is_changed_and_the_rest_stays() {
        let mut there = limits(serde_json::json!({
            "cpu": {"quota": 1, "period": 2}, "memory": {"limit": 3}, "devices": []
        }));
        put_over(
            &mut there,
            &limits(serde_json::json!({"cpu": {"quota": 9, "shares": 8}, "pids": {"limit": 7}})),
        );
        assert_eq!(
            serde_json::to_value(&there).unwrap(),
            serde_json::json!({
                "cpu": {"quota": 9, "period": 2, "shares": 8},
                "memory": {"limit": 3}, "pids": {"limit": 7}, "devices": []
            })
        );
    }
}
