//! OCI hooks that run on the host, in the runtime's namespaces (OCI runtime spec,
//! "POSIX-platform Hooks"): each gets the container's state on stdin.
//!
//! prestart and createRuntime run when the container is built but not started; if one fails,
//! the container fails. poststart and poststop run afterwards; a failure is only logged.
//! createContainer and startContainer belong to the guest.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, HookError, HookFailure, Result};

/// The time-out of a hook that does not set one: a hanging hook must not block the pod for
/// ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many bytes of a failed hook's stderr the error repeats.
const COMPLAINT: usize = 1024;

/// The hooks of one container that run on the host.
#[derive(Debug, Default)]
pub(crate) struct HostHooks {
    version: String,
    annotations: HashMap<String, String>,
    create: Vec<Hook>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
}

/// The state on stdin (OCI runtime spec, "State").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    pid: u32,
    bundle: &'a Path,
    annotations: &'a HashMap<String, String>,
}

impl HostHooks {
    pub(crate) fn of(spec: &Spec) -> Self {
        let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
        let Some(hooks) = spec.hooks() else {
            return Self::default();
        };
        // prestart is deprecated, but Docker's network still uses it.
        #[allow(deprecated)]
        let mut create = list(hooks.prestart());
        create.extend(list(hooks.create_runtime()));
        Self {
            version: spec.version().clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            create,
            poststart: list(hooks.poststart()),
            poststop: list(hooks.poststop()),
        }
    }

    /// Runs prestart and createRuntime.
    pub(crate) async fn created(&self, id: &str, pid: u32, bundle: &Path) -> Result<()> {
        for hook in &self.create {
            self.run(hook, id, "created", pid, bundle).await?;
        }
        Ok(())
    }

    /// Runs poststart.
    pub(crate) async fn started(&self, id: &str, pid: u32, bundle: &Path) {
        self.run_all(&self.poststart, id, "running", pid, bundle)
            .await;
    }

    /// Runs poststop.
    pub(crate) async fn stopped(&self, id: &str, bundle: &Path) {
        self.run_all(&self.poststop, id, "stopped", 0, bundle).await;
    }

    async fn run_all(&self, hooks: &[Hook], id: &str, status: &str, pid: u32, bundle: &Path) {
        for hook in hooks {
            if let Err(e) = self.run(hook, id, status, pid, bundle).await {
                log::warn!("Container {id}: {e}");
            }
        }
    }

    async fn run(
        &self,
        hook: &Hook,
        id: &str,
        status: &str,
        pid: u32,
        bundle: &Path,
    ) -> Result<()> {
        let state = State {
            oci_version: &self.version,
            id,
            status,
            pid,
            bundle,
            annotations: &self.annotations,
        };
        let state = serde_json::to_vec(&state).map_err(Error::encode("the state for a hook"))?;
        let limit = hook.timeout().and_then(|s| u64::try_from(s).ok());
        let limit = limit.map_or(TIMEOUT, Duration::from_secs);
        let done = tokio::time::timeout(limit, run(hook, bundle, &state)).await;
        let done = done.unwrap_or(Err(HookFailure::Timeout {
            seconds: limit.as_secs(),
        }));
        done.map_err(|failure| {
            let path = hook.path().clone();
            HookError { path, failure }.into()
        })
    }
}

/// Runs hooks of a pod, with its state on stdin; the first failure ends it.
pub(crate) async fn run_for_pod(
    hooks: &[Hook],
    id: &str,
    status: &str,
    dir: &Path,
    labels: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let host = HostHooks {
        version: String::from("1.0.2"),
        annotations: labels.into_iter().collect(),
        ..HostHooks::default()
    };
    for hook in hooks {
        host.run(hook, id, status, 0, dir).await?;
    }
    Ok(())
}

/// Runs one hook; it is killed when this is dropped.
async fn run(hook: &Hook, bundle: &Path, state: &[u8]) -> Result<(), HookFailure> {
    let mut command = Command::new(hook.path());
    // args[0] is the program's name, as for execv(3).
    if let Some((name, args)) = hook.args().as_deref().unwrap_or_default().split_first() {
        command.arg0(name).args(args);
    }
    let env = hook.env().as_deref().unwrap_or_default();
    let mut child = command
        .env_clear()
        .envs(env.iter().filter_map(|pair| pair.split_once('=')))
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may ignore its stdin.
        let _ = stdin.write_all(state).await;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = &output.stderr[output.stderr.len().saturating_sub(COMPLAINT)..];
    Err(HookFailure::Status {
        status: output.status,
        stderr: String::from_utf8_lossy(said).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(script: &str, timeout: i64) -> HostHooks {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "annotations": {"a": "b"},
            "hooks": {"createRuntime": [{
                "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=x"], "timeout": timeout}]}
        }))
        .unwrap();
        HostHooks::of(&spec)
    }

    #[tokio::test]
    async fn a_hook_gets_state_environment_and_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = hooks("cat > state; echo $WORD > word", 10);
        hooks.created("c", 42, dir.path()).await.unwrap();
        let state = std::fs::read(dir.path().join("state")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(
            (&state["id"], &state["pid"], &state["status"]),
            (&"c".into(), &42.into(), &"created".into())
        );
        assert_eq!(state["annotations"]["a"], "b");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("word")).unwrap(),
            "x\n"
        );
    }

    #[tokio::test]
    async fn a_hook_that_fails_or_hangs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let failure = async |script: &str| {
            let hooks = hooks(script, 1);
            match hooks.created("c", 1, dir.path()).await.unwrap_err() {
                Error::Hook(error) => {
                    assert_eq!(error.path, Path::new("/bin/sh"));
                    error.failure
                }
                other => panic!("{other:?}"),
            }
        };
        match failure("echo no such thing >&2; exit 3").await {
            HookFailure::Status { status, stderr } => {
                assert_eq!((status.code(), &*stderr), (Some(3), "no such thing"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            failure("exec sleep 60").await,
            HookFailure::Timeout { seconds: 1 }
        ));
    }
}
