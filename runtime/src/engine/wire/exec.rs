//! Further processes, as they are asked for over the wire.

use protos::management as api;

use crate::engine::records::exec::{ExecRequest, PreservedFd};
use crate::stdio::descriptor::Direction;

/// A process in a container, as it is asked for.
pub fn to_create(container: &str, request: &ExecRequest) -> api::CreateExecRequest {
    api::CreateExecRequest {
        container: container.to_owned(),
        command: request.command.clone(),
        env: request.env.clone(),
        cwd: request.cwd.clone().unwrap_or_default(),
        user: request.user.clone().unwrap_or_default(),
        terminal: request.terminal,
        privileged: request.privileged,
        preserve_fds: to_preserved(&request.preserve_fds),
        ..Default::default()
    }
}

/// The reverse of [`to_create`].
pub fn of_create(request: api::CreateExecRequest) -> (String, ExecRequest) {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let process = ExecRequest {
        command: request.command,
        env: request.env,
        cwd: given(request.cwd),
        user: given(request.user),
        terminal: request.terminal,
        privileged: request.privileged,
        preserve_fds: of_preserved(&request.preserve_fds),
    };
    (request.container, process)
}

/// Descriptors that a process is to have.
pub fn to_preserved(fds: &[PreservedFd]) -> Vec<api::PreservedFd> {
    let direction = |direction| match direction {
        Direction::In => api::Direction::IN,
        Direction::Out => api::Direction::OUT,
        Direction::Both => api::Direction::BOTH,
    };
    let fds = fds.iter().map(|fd| api::PreservedFd {
        number: fd.number,
        direction: direction(fd.direction).into(),
        ..Default::default()
    });
    fds.collect()
}

/// The reverse of [`to_preserved`].
pub fn of_preserved(fds: &[api::PreservedFd]) -> Vec<PreservedFd> {
    let fds = fds.iter().map(|fd| PreservedFd {
        number: fd.number,
        direction: match fd.direction.enum_value_or_default() {
            api::Direction::IN => Direction::In,
            api::Direction::OUT => Direction::Out,
            api::Direction::BOTH => Direction::Both,
        },
    });
    fds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_travel() {
        let fd = |number, direction| PreservedFd { number, direction };
        let asked = ExecRequest {
            command: vec!["sh".into(), "-c".into()],
            terminal: true,
            env: vec!["A=b".into()],
            user: Some("1:2".into()),
            cwd: Some("/tmp".into()),
            privileged: true,
            preserve_fds: vec![
                fd(3, Direction::In),
                fd(4, Direction::Out),
                fd(5, Direction::Both),
            ],
        };
        for asked in [asked, ExecRequest::default()] {
            let travelled = of_create(to_create("c", &asked));
            assert_eq!(travelled, ("c".to_owned(), asked));
        }
    }
}
