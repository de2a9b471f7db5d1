//! Seccomp profiles: libseccomp compiles them when a container is created, and the last step
//! before exec loads them.
//!
//! libcontainer would compile a profile in that last step, would run its own synchronisation
//! under the filter, and would run exec sessions without a filter. Here each process of a
//! container gets the same filter, at the same point as with runc.

use std::fs::File;
use std::io::{self, Read, Seek};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    error::SeccompError,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// A compiled filter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filter {
    /// A sequence of `struct sock_filter`.
    program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*
    flags: u64,
}

/// The size of a `struct sock_filter`.
const INSTRUCTION: usize = 8;

impl Filter {
    /// Compiles a profile.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
        let invalid = |e: SeccompError| Error::document("seccomp profile")(e);
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut context = ScmpFilterContext::new(default).map_err(invalid)?;
        // The process's own noNewPrivileges alone sets that bit.
        context.set_ctl_nnp(false).map_err(invalid)?;
        for arch in profile.architectures().iter().flatten() {
            context.add_arch(architecture(*arch)).map_err(invalid)?;
        }
        for rule in profile.syscalls().iter().flatten() {
            add_rule(&mut context, rule, default)?;
        }
        let export = || -> io::Result<Vec<u8>> {
            let mut file = File::from(memfd_create("seccomp", MFdFlags::MFD_CLOEXEC)?);
            context.export_bpf(&file).map_err(io::Error::other)?;
            file.rewind()?;
            let mut program = Vec::new();
            file.read_to_end(&mut program)?;
            Ok(program)
        };
        Ok(Filter {
            program: export().what("export the seccomp filter")?,
            flags: flags(profile),
        })
    }

    /// Applies the filter to the calling process. Needs no_new_privs or CAP_SYS_ADMIN.
    pub fn load(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: (self.program.len() / INSTRUCTION) as u16,
            filter: self.program.as_ptr() as *mut libc::sock_filter,
        };
        // SAFETY: the program lives through the call, which copies it; the kernel requires no
        // alignment.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &program,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn add_rule(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<()> {
    let action = action(rule.action(), rule.errno_ret())?;
    if action == default {
        return Ok(());
    }
    let conditions: Vec<ScmpArgCompare> = rule.args().iter().flatten().map(condition).collect();
    for name in rule.names() {
        // This kernel does not have a system call that libseccomp does not know.
        let Ok(syscall) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let add = |context: &mut ScmpFilterContext, conditions: &[ScmpArgCompare]| {
            context
                .add_rule_conditional(action, syscall, conditions)
                .map(|_| ())
                .map_err(Error::document(format!("seccomp rule for {name}")))
        };
        if compares_an_argument_twice(rule) {
            // One rule cannot have several such conditions; as with runc they become
            // alternatives.
            for condition in &conditions {
                add(context, std::slice::from_ref(condition))?;
            }
        } else {
            add(context, &conditions)?;
        }
    }
    Ok(())
}

fn compares_an_argument_twice(rule: &LinuxSyscall) -> bool {
    let mut indices: Vec<usize> = rule.args().iter().flatten().map(|a| a.index()).collect();
    let all = indices.len();
    indices.sort_unstable();
    indices.dedup();
    indices.len() < all
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    use LinuxSeccompOperator::*;
    let (op, value) = match arg.op() {
        ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // The first value is the mask, the second the result.
        ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    ScmpArgCompare::new(arg.index() as u32, op, value)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    use LinuxSeccompAction::*;
    let errno = errno.map_or(libc::EPERM, |errno| errno as i32);
    Ok(match action {
        ScmpActKill | ScmpActKillThread => ScmpAction::KillThread,
        ScmpActKillProcess => ScmpAction::KillProcess,
        ScmpActTrap => ScmpAction::Trap,
        ScmpActErrno => ScmpAction::Errno(errno),
        ScmpActTrace => ScmpAction::Trace(errno as u16),
        ScmpActLog => ScmpAction::Log,
        ScmpActAllow => ScmpAction::Allow,
        ScmpActNotify => return Err(Error::Unsupported("seccomp notify".into())),
    })
}

fn flags(profile: &LinuxSeccomp) -> u64 {
    use LinuxSeccompFilterFlag::*;
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // These flags are for several threads and for notify, which do not occur here.
        SeccompFilterFlagTsync | SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile
        .flags()
        .iter()
        .flatten()
        .fold(0, |flags, flag| flags | bit(flag))
}

fn architecture(arch: Arch) -> ScmpArch {
    use Arch::*;
    match arch {
        ScmpArchNative => ScmpArch::Native,
        ScmpArchX86 => ScmpArch::X86,
        ScmpArchX86_64 => ScmpArch::X8664,
        ScmpArchX32 => ScmpArch::X32,
        ScmpArchArm => ScmpArch::Arm,
        ScmpArchAarch64 => ScmpArch::Aarch64,
        ScmpArchMips => ScmpArch::Mips,
        ScmpArchMips64 => ScmpArch::Mips64,
        ScmpArchMips64n32 => ScmpArch::Mips64N32,
        ScmpArchMipsel => ScmpArch::Mipsel,
        ScmpArchMipsel64 => ScmpArch::Mipsel64,
        ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        ScmpArchPpc => ScmpArch::Ppc,
        ScmpArchPpc64 => ScmpArch::Ppc64,
        ScmpArchPpc64le => ScmpArch::Ppc64Le,
        ScmpArchS390 => ScmpArch::S390,
        ScmpArchS390x => ScmpArch::S390X,
        ScmpArchRiscv64 => ScmpArch::Riscv64,
        ScmpArchParisc => ScmpArch::Parisc,
        ScmpArchParisc64 => ScmpArch::Parisc64,
        ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        ScmpArchM68k => ScmpArch::M68k,
        ScmpArchSh => ScmpArch::Sh,
        ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::testing::{alone, forked_well, say};
    use test_support::{require, root};

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_profile_becomes_a_program() {
        let filter = Filter::compile(&profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
                "syscalls":[{"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO"},
                {"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[
                 {"index":0,"value":8,"op":"SCMP_CMP_EQ"},{"index":0,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#,
        ))
        .unwrap();
        assert!(!filter.program.is_empty());
        assert_eq!(filter.program.len() % INSTRUCTION, 0);
    }

    #[test]
    fn notify_is_refused() {
        let notify = profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW",
                "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(matches!(
            Filter::compile(&notify),
            Err(Error::Unsupported(_))
        ));
    }

    /// The error numbers of closing these descriptors, which are not open, under a profile.
    fn closing(json: &str, descriptors: &[u64]) -> Vec<String> {
        let filter = Filter::compile(&profile(json)).unwrap();
        let said = forked_well(|| {
            filter.load().unwrap();
            for descriptor in descriptors {
                // SAFETY: the descriptor is not open.
                let result = unsafe { libc::syscall(libc::SYS_close, *descriptor) };
                let code = io::Error::last_os_error().raw_os_error();
                say(&format!("{} ", if result < 0 { code.unwrap() } else { 0 }));
            }
        });
        said.split_whitespace().map(String::from).collect()
    }

    /// An error number that close(2) does not have, and the one that it has here.
    const FILTERED: &str = "77";
    const BAD: &str = "9";

    #[test]
    fn each_operator_compares_as_the_kernel_does() {
        alone!();
        require!(root());
        for (op, expected) in [
            ("NE", [FILTERED, BAD, FILTERED]),
            ("LT", [FILTERED, BAD, BAD]),
            ("LE", [FILTERED, FILTERED, BAD]),
            ("EQ", [BAD, FILTERED, BAD]),
            ("GE", [BAD, FILTERED, FILTERED]),
            ("GT", [BAD, BAD, FILTERED]),
        ] {
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
                      "args":[{{"index":0,"value":2000,"op":"SCMP_CMP_{op}"}}]}}]}}"#
            );
            assert_eq!(closing(&profile, &[1999, 2000, 2001]), expected, "{op}");
        }
        // The bits of the mask alone are compared.
        let masked = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
             "args":[{"index":0,"value":3,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let expected = [BAD, FILTERED, BAD, BAD, FILTERED];
        assert_eq!(closing(masked, &[2000, 2001, 2002, 2003, 2005]), expected);
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives_and_others_are_combined() {
        alone!();
        require!(root());
        let rule = |args: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["close","no_such_call"],
                    "action":"SCMP_ACT_ERRNO","errnoRet":77,"args":[{args}]}}]}}"#
            )
        };
        let equal = |index: u32, value: u32| {
            format!(r#"{{"index":{index},"value":{value},"op":"SCMP_CMP_EQ"}}"#)
        };
        let one = rule(&format!("{},{}", equal(0, 2000), equal(0, 2002)));
        let alternatives = closing(&one, &[2000, 2001, 2002]);
        assert_eq!(alternatives, [FILTERED, BAD, FILTERED]);
        // The second argument of close(2) is whatever the register holds.
        let below = r#"{"index":1,"value":0,"op":"SCMP_CMP_LT"}"#;
        let both = rule(&format!("{},{below}", equal(0, 2000)));
        assert_eq!(closing(&both, &[2000]), [BAD]);
        assert_eq!(closing(&rule(""), &[2000]), [FILTERED]);
    }

    #[test]
    fn a_rule_without_an_errno_refuses_and_one_like_the_default_is_dropped() {
        alone!();
        require!(root());
        let refused = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["close"],"action":"SCMP_ACT_ERRNO"},
            {"names":["close"],"action":"SCMP_ACT_ALLOW","args":[
             {"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(closing(refused, &[2000]), ["1"]);
    }

    #[test]
    fn flags_are_those_of_the_kernel() {
        for (named, bits) in [
            (r#"[]"#, 0),
            (r#"["SECCOMP_FILTER_FLAG_LOG"]"#, 2),
            (r#"["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#, 4),
            (r#"["SECCOMP_FILTER_FLAG_TSYNC"]"#, 0),
            (r#"["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#, 0),
            (
                r#"["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_LOG"]"#,
                2,
            ),
            (
                r#"["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#,
                6,
            ),
        ] {
            let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":{named}}}"#);
            assert_eq!(flags(&profile(&json)), bits, "{named}");
        }
    }

    #[test]
    fn actions_are_those_of_the_profile() {
        use LinuxSeccompAction::*;
        for (given, errno, expected) in [
            (ScmpActKill, None, ScmpAction::KillThread),
            (ScmpActKillThread, None, ScmpAction::KillThread),
            (ScmpActKillProcess, None, ScmpAction::KillProcess),
            (ScmpActTrap, None, ScmpAction::Trap),
            (ScmpActErrno, None, ScmpAction::Errno(libc::EPERM)),
            (ScmpActErrno, Some(38), ScmpAction::Errno(38)),
            (ScmpActTrace, Some(5), ScmpAction::Trace(5)),
            (ScmpActLog, None, ScmpAction::Log),
            (ScmpActAllow, None, ScmpAction::Allow),
        ] {
            assert_eq!(action(given, errno).unwrap(), expected);
        }
    }

    #[test]
    fn a_filter_that_the_kernel_refuses_is_an_error() {
        let program = Vec::new();
        let flags = 0;
        let refused = Filter { program, flags }.load().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }
}
