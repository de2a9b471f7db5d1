//! Waiting for a state of a container.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::PodHandle;
use crate::blocking::on_thread;
use crate::engine::records::record::ContainerState;
use crate::engine::status::ContainerStatus;
use crate::error::{Context, Result};

impl PodHandle {
    /// Waits until a container is in one of these states, and returns its state then. Checks
    /// whenever the state file is written, and after each `interval`: a killed owner writes
    /// nothing.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], also if it is removed meanwhile.
    pub async fn wait_for(
        &self,
        container: &str,
        wanted: &[ContainerStatus],
        interval: Duration,
    ) -> Result<ContainerState> {
        let (pod, name, wanted) = (self.clone(), container.to_owned(), wanted.to_vec());
        let wait = move || pod.wait_blocking(&name, &wanted, interval);
        on_thread("waiting for a container", wait).await?
    }

    fn wait_blocking(
        &self,
        name: &str,
        wanted: &[ContainerStatus],
        interval: Duration,
    ) -> Result<ContainerState> {
        self.view()?.container(name)?;
        let paths = self.paths.container(name)?;
        let dir = paths.path();
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).on("watch", dir)?;
        let changes = WatchFlags::MOVED_TO | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, dir, changes).on("watch", dir)?;
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: interval.subsec_nanos().into(),
        };
        loop {
            let view = self.view()?;
            let state = &view.container(name)?.state;
            if wanted.contains(&state.status) {
                return Ok(state.clone());
            }
            let mut fds = [PollFd::new(&watch, PollFlags::IN)];
            match poll(&mut fds, Some(&interval)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).on("wait for", dir),
            }
            // The number of changes does not matter.
            let _ = rustix::io::read(&watch, &mut [0u8; 4096]);
        }
    }
}
