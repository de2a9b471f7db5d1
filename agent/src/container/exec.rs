//! Exec sessions: further processes of a container.

use super::*;

impl Container {
    /// Records an exec and connects its streams.
    pub async fn add_exec(&self, exec_id: &str, json: &[u8], stdio: &agent::Stdio) -> Result<()> {
        check_id(exec_id)?;
        self.must_be(&[Status::Running, Status::Created], "running")?;
        let exists = || Error::ExecExists {
            container: self.id.clone(),
            exec: exec_id.to_owned(),
        };
        if lock(&self.execs).contains_key(exec_id) {
            return Err(exists());
        }
        let plan = spec::plan_exec(json, stdio, &self.inherited)?;
        let connections = Connections::take(&self.environment.arrivals, stdio).await?;
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec_id) {
            return Err(exists());
        }
        execs.insert(
            exec_id.to_owned(),
            Exec {
                process: Arc::new(Process::new(&self.id, exec_id, connections)),
                plan: Some(plan),
                terminal: stdio.terminal,
            },
        );
        Ok(())
    }

    /// Runs a recorded exec.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<i32> {
        self.must_be(&[Status::Running, Status::Created], "running")?;
        let (process, plan, terminal) = {
            let mut execs = lock(&self.execs);
            let exec = execs
                .get_mut(exec_id)
                .ok_or_else(|| self.no_process(exec_id))?;
            (exec.process.clone(), exec.plan.take(), exec.terminal)
        };
        let Some((for_libcontainer, mut launch)) = plan else {
            return Err(Error::State {
                what: process.name(),
                state: "started already",
                wanted: "not started",
            });
        };
        if let Some((width, height)) = process.asked_size() {
            launch.begin_with_size(width, height)?;
        }
        let folder = self.exec_folder(exec_id);
        let request = Request::Exec {
            id: self.id.clone(),
            folder: folder.clone(),
            state: STATE.into(),
            terminal,
        };
        let written = write_json(&folder, PROCESS_FILE, &for_libcontainer)
            .and_then(|()| write_json(&folder, LAUNCH_FILE, &launch));
        let started = match written {
            Ok(()) => self.start_process(process, &request, terminal).await,
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
        if !exec.process.is_over() && !exec.process.is_recorded() {
            return Err(Error::State {
                what: exec.process.name(),
                state: "running",
                wanted: "stopped",
            });
        }
        if let Some(exec) = execs.remove(exec_id) {
            exec.process.disconnect();
        }
        Ok(())
    }
}
