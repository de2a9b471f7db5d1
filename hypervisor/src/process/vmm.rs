//! The start of `rust-kata-vmm`, for both hypervisors.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::process::{Launch, Namespaces};
use crate::spec::ValidSpec;
use crate::vm_process::Role;

/// The process for `spec`, with its end of the control channel.
pub(crate) fn launch(spec: &ValidSpec, control: OwnedFd) -> Launch {
    Launch {
        role: Role::Vmm,
        program: spec.vmm_binary.clone(),
        args: args(spec, &control),
        log: spec.file("vmm.log"),
        namespaces: Namespaces::Own,
        cgroup: spec.cgroup.clone(),
        fds: vec![control],
    }
}

fn args(spec: &ValidSpec, control: &OwnedFd) -> Vec<OsString> {
    let level = if spec.debug { "debug" } else { "warn" };
    vec![
        "--control-fd".into(),
        control.as_raw_fd().to_string().into(),
        "--share".into(),
        spec.share.dir.clone().into(),
        "--sockets".into(),
        spec.sockets().into(),
        "--log".into(),
        level.into(),
    ]
}
