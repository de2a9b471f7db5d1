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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture;
    use std::fs::File;

    #[test]
    fn the_vmm_is_told_its_socket_and_directories_and_how_much_to_log() {
        let (_tmp, spec) = fixture();
        for (debug, level) in [(false, "warn"), (true, "debug")] {
            let mut spec = spec.clone();
            (spec.debug, spec.cgroup) = (debug, Some("/sys/fs/cgroup/pod".into()));
            spec.vsock_uds = spec.dir.join("shared/vsock");
            let spec = spec.validate().unwrap();
            let control: OwnedFd = File::open("/dev/null").unwrap().into();
            let fd = control.as_raw_fd();

            let launch = launch(&spec, control);

            let share = spec.share.dir.to_str().unwrap();
            let number = fd.to_string();
            let expected = [
                ["--control-fd", &number],
                ["--share", share],
                // The vsock's socket is in the shared directory, which is as good as any other.
                ["--sockets", share],
                ["--log", level],
            ];
            assert_eq!(launch.args, expected.concat());
            assert_eq!(
                (launch.role, &launch.program),
                (Role::Vmm, &spec.vmm_binary)
            );
            assert_eq!(launch.log, spec.dir.join("vmm.log"));
            assert!(matches!(launch.namespaces, Namespaces::Own));
            assert_eq!(launch.cgroup, spec.cgroup);
            assert_eq!(launch.fds[0].as_raw_fd(), fd);
        }
    }
}
