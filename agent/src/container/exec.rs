//! Exec sessions: further processes of a container.

use std::collections::hash_map::Entry;

use super::*;

impl Container {
    /// Runs a further process, once its streams are connected.
    pub async fn exec(
        self: &Arc<Self>,
        exec_id: &str,
        json: &[u8],
        stdio: &agent::Stdio,
    ) -> Result<i32> {
        check_id(exec_id)?;
        self.must_be(&[Status::Running, Status::Created], "running")?;
        let exists = || Error::ExecExists {
            container: self.id.clone(),
            exec: exec_id.to_owned(),
        };
        if lock(&self.execs).contains_key(exec_id) {
            return Err(exists());
        }
        let (for_libcontainer, launch) = spec::plan_exec(json, stdio, &self.inherited)?;
        let connections = Connections::take(&self.environment.arrivals, stdio).await?;
        let process = Arc::new(Process::new(&self.id, exec_id, connections));
        match lock(&self.execs).entry(exec_id.to_owned()) {
            Entry::Occupied(_) => return Err(exists()),
            Entry::Vacant(place) => place.insert(process.clone()),
        };
        let folder = self.exec_folder(exec_id);
        let request = Request::Exec {
            id: self.id.clone(),
            folder: folder.clone(),
            state: STATE.into(),
            terminal: stdio.terminal,
        };
        let written = write_json(&folder, PROCESS_FILE, &for_libcontainer)
            .and_then(|()| write_json(&folder, LAUNCH_FILE, &launch));
        let started = match written {
            Ok(()) => self.start_process(process, &request, stdio.terminal).await,
            Err(e) => {
                process.fail();
                Err(e)
            }
        };
        let _ = fs::remove_dir_all(&folder);
        started
    }

    fn exec_folder(&self, exec_id: &str) -> PathBuf {
        Path::new(BUNDLES)
            .join(&self.id)
            .join("execs")
            .join(exec_id)
    }

    /// Forgets an exec that does not run.
    pub fn remove_exec(&self, exec_id: &str) -> Result<()> {
        let mut execs = lock(&self.execs);
        let exec = execs.get(exec_id).ok_or_else(|| self.no_process(exec_id))?;
        if !exec.is_over() {
            return Err(Error::State {
                what: exec.name(),
                state: "running",
                wanted: "stopped",
            });
        }
        if let Some(exec) = execs.remove(exec_id) {
            exec.disconnect();
        }
        Ok(())
    }
}
