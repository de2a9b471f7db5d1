//! The sessions of one container, of which ended ones are kept for `inspect`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::engine::records::exec::ExecSession;
use crate::engine::status::ContainerStatus;
use crate::error::{Error, Result};

/// The sessions of a container, by id.
pub type Sessions = BTreeMap<String, ExecSession>;

/// As many sessions a container can have before ended ones go.
const MAX: usize = 256;

/// How long a session is sure to be kept for its start. Its client starts it at once;
/// one that has died meanwhile never does.
const STARTED_WITHIN: Duration = Duration::from_secs(600);

pub(super) fn find<'a>(sessions: &'a mut Sessions, exec: &str) -> Result<&'a mut ExecSession> {
    sessions
        .get_mut(exec)
        .ok_or_else(|| Error::not_found("exec", exec))
}

/// Makes room for one more session: the oldest goes that has ended, or that nobody
/// has started.
pub(super) fn forget_oldest(sessions: &mut Sessions, now: SystemTime) {
    let is_over = |session: &ExecSession| match session.status {
        ContainerStatus::Configured => now
            .duration_since(session.created)
            .is_ok_and(|age| age > STARTED_WITHIN),
        status => !status.is_live(),
    };
    while sessions.len() >= MAX {
        let over = sessions.iter().filter(|(_, session)| is_over(session));
        let oldest = over.min_by_key(|(_, session)| session.created);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return;
        };
        sessions.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records::exec::ExecRequest;

    #[test]
    fn ended_sessions_make_room_and_running_ones_stay() {
        let session = |status, n| ExecSession {
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(n),
            ..ExecSession::new(ExecRequest::default(), status)
        };
        let mut sessions = Sessions::new();
        for n in 0..MAX as u64 {
            let status = if n == 0 {
                ContainerStatus::Running
            } else {
                ContainerStatus::Exited
            };
            sessions.insert(format!("{n:04}"), session(status, n));
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(MAX as u64);
        forget_oldest(&mut sessions, now);
        assert!(sessions.contains_key("0000") && !sessions.contains_key("0001"));
        assert_eq!(sessions.len(), MAX - 1);

        // One that is about to be started is not in the way, however many there are.
        for session in sessions.values_mut() {
            session.status = ContainerStatus::Configured;
        }
        sessions.insert("0001".into(), session(ContainerStatus::Running, 1));
        forget_oldest(&mut sessions, now);
        assert_eq!(sessions.len(), MAX);
        forget_oldest(&mut sessions, now + STARTED_WITHIN);
        assert!(sessions.len() < MAX && sessions.contains_key("0001"));
    }
}
