//! Device rules. In cgroup v2 a BPF program decides which devices a container may use. The
//! agent compiles the OCI rules to such a program and attaches it to the container's cgroup.
//!
//! The program checks the rules from the last to the first, and the first match decides: as in
//! v1, a later rule overrides an earlier one. An access without a matching rule is denied.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::Cgroup;
use crate::error::{Context, Error, Result};

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_DEVCG_ACC_MKNOD: i32 = 1;
const BPF_DEVCG_ACC_READ: i32 = 2;
const BPF_DEVCG_ACC_WRITE: i32 = 4;
const ALL: i32 = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;
const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

/// One rule. `None` matches any value.
#[derive(Debug, Clone, Copy)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// The rules that every container has, as with runc: it may make nodes of any device, but open
/// these only.
const ALWAYS: &[Rule] = &[
    allow(BPF_DEVCG_DEV_CHAR, None, None, BPF_DEVCG_ACC_MKNOD),
    allow(BPF_DEVCG_DEV_BLOCK, None, None, BPF_DEVCG_ACC_MKNOD),
    // null, zero, full, random, urandom
    allow(BPF_DEVCG_DEV_CHAR, Some(1), Some(3), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(1), Some(5), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(1), Some(7), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(1), Some(8), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(1), Some(9), ALL),
    // tty, ptmx, pts/*
    allow(BPF_DEVCG_DEV_CHAR, Some(5), Some(0), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(5), Some(2), ALL),
    allow(BPF_DEVCG_DEV_CHAR, Some(136), None, ALL),
];

impl Cgroup {
    /// Limits the processes of the cgroup to the devices of the rules.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let rules = rules.iter().map(rule).collect::<Result<Vec<_>>>()?;
        let program = compile(rules.iter().chain(ALWAYS));
        let folder = File::open(&self.path).path(&self.path)?;
        match load(&program).and_then(|program| attach(&folder, &program)) {
            // A kernel without BPF for cgroups.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                log::warn!("device rules are not enforced: {e}");
                Ok(())
            }
            other => other.what("device rules"),
        }
    }
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map(|n| n as i32);
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => BPF_DEVCG_ACC_READ,
            'w' => BPF_DEVCG_ACC_WRITE,
            'm' => BPF_DEVCG_ACC_MKNOD,
            _ => {
                return Err(Error::invalid(
                    "access of a device rule",
                    letter,
                    "r, w and m",
                ));
            }
        };
    }
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::B => Some(BPF_DEVCG_DEV_BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(BPF_DEVCG_DEV_CHAR),
        LinuxDeviceType::A => None,
        LinuxDeviceType::P => {
            return Err(Error::invalid("type of a device rule", "p", "a, b, c or u"));
        }
    };
    Ok(Rule {
        allow: rule.allow(),
        kind,
        // "a" stands for all types; the rest of the rule is ignored.
        major: number(rule.major()).filter(|_| kind.is_some()),
        minor: number(rule.minor()).filter(|_| kind.is_some()),
        access: if kind.is_none() || access == 0 {
            ALL
        } else {
            access
        },
    })
}

/// A `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Instruction codes, see Documentation/bpf/instruction-set.rst.
const LOAD_U32: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

// Registers: the answer, the context, then scratch.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 1;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

fn compile<'a>(rules: impl DoubleEndedIterator<Item = &'a Rule>) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
    let mut program = vec![
        op(LOAD_U32, KIND, CONTEXT, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(LOAD_U32, ACCESS, CONTEXT, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_U32, MAJOR, CONTEXT, 4, 0),
        op(LOAD_U32, MINOR, CONTEXT, 8, 0),
    ];
    let answer = |allow: bool| [op(SET, ANSWER, 0, 0, allow.into()), op(EXIT, 0, 0, 0, 0)];
    for rule in rules.rev() {
        let mut tests = Vec::new();
        for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push(op(JUMP_UNEQUAL, register, 0, 0, wanted));
            }
        }
        if rule.access != ALL {
            tests.push(op(COPY, SCRATCH, ACCESS, 0, 0));
            tests.push(op(AND, SCRATCH, 0, 0, rule.access));
            // An allow rule matches if it covers the whole access, a deny rule if it covers a
            // part of it.
            tests.push(match rule.allow {
                true => op(JUMP_UNEQUAL_REGISTER, SCRATCH, ACCESS, 0, 0),
                false => op(JUMP_EQUAL, SCRATCH, 0, 0, 0),
            });
        }
        let unconditional = tests.is_empty();
        let end = tests.len() + 2;
        for (i, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER | JUMP_EQUAL) {
                test.offset = (end - i - 1) as i16;
            }
        }
        program.extend(tests);
        program.extend(answer(rule.allow));
        if unconditional {
            // The verifier rejects unreachable instructions.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

/// The parts of `union bpf_attr` that BPF_PROG_LOAD needs here.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

fn bpf<T>(command: u32, attributes: &T) -> io::Result<i64> {
    // SAFETY: the attributes live through the call and their size is given;
    // what they point to lives as long.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let fd = bpf(
        BPF_PROG_LOAD,
        &Load {
            prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            ..Default::default()
        },
    )?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn attach(cgroup: &File, program: &OwnedFd) -> io::Result<()> {
    bpf(
        BPF_PROG_ATTACH,
        &Attach {
            target_fd: cgroup.as_raw_fd() as u32,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags: BPF_F_ALLOW_MULTI,
        },
    )
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::{Reason, require, root};

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0i64; 16];
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            let jump = match i.code {
                LOAD_U32 => {
                    registers[to] = context[i.offset as usize / 4].into();
                    false
                }
                AND => {
                    registers[to] &= i64::from(i.immediate);
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= i.immediate;
                    false
                }
                SET => {
                    registers[to] = i.immediate.into();
                    false
                }
                COPY => {
                    registers[to] = registers[from];
                    false
                }
                JUMP_UNEQUAL => registers[to] != i64::from(i.immediate),
                JUMP_UNEQUAL_REGISTER => registers[to] != registers[from],
                JUMP_EQUAL => registers[to] == i64::from(i.immediate),
                EXIT => return registers[0] == 1,
                code => panic!("{code:#x}"),
            };
            if jump {
                at += i.offset as usize;
            }
        }
    }

    fn rules(json: &str) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        rules.iter().map(|r| rule(r).unwrap()).collect()
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let rules = rules(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
                {"allow":true,"type":"b","major":8,"access":"r"}]"#,
        );
        let program = compile(rules.iter().chain(ALWAYS));
        let char_ = |major, minor, access| run(&program, BPF_DEVCG_DEV_CHAR, major, minor, access);
        let block = |major, minor, access| run(&program, BPF_DEVCG_DEV_BLOCK, major, minor, access);
        let (read, write) = (BPF_DEVCG_ACC_READ, BPF_DEVCG_ACC_WRITE);
        assert!(char_(10, 229, read | write));
        assert!(char_(10, 229, BPF_DEVCG_ACC_MKNOD), "any node may be made");
        assert!(!char_(10, 200, read));
        assert!(char_(1, 3, ALL) && char_(136, 9, read | write));
        assert!(!char_(1, 11, read), "kmsg");
        assert!(block(8, 1, read) && !block(8, 1, write) && !block(8, 1, read | write));
    }

    #[test]
    fn later_rules_override_earlier_ones() {
        let rules = rules(
            r#"[{"allow":true,"type":"a","access":"rwm"},
                {"allow":false,"type":"c","major":10,"access":"w"}]"#,
        );
        let program = compile(rules.iter());
        assert!(run(&program, BPF_DEVCG_DEV_BLOCK, 8, 0, ALL));
        assert!(run(&program, BPF_DEVCG_DEV_CHAR, 10, 1, BPF_DEVCG_ACC_READ));
        assert!(!run(&program, BPF_DEVCG_DEV_CHAR, 10, 1, ALL));
        // No instruction follows the rule that always matches.
        assert_eq!(program.last().map(|i| i.code), Some(EXIT));
    }

    #[test]
    fn rules_are_read_field_by_field() {
        let read = |json: &str| {
            let json = serde_json::from_str::<LinuxDeviceCgroup>(json).unwrap();
            rule(&json).map(|r| (r.allow, r.kind, r.major, r.minor, r.access))
        };
        let (block, char_) = (Some(1), Some(2));
        for (json, expected) in [
            (
                r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"r"}"#,
                (true, char_, Some(1), Some(3), 2),
            ),
            (
                r#"{"allow":false,"type":"u","major":0,"minor":0,"access":"w"}"#,
                (false, char_, Some(0), Some(0), 4),
            ),
            (
                r#"{"allow":true,"type":"b","major":-1,"minor":7,"access":"m"}"#,
                (true, block, None, Some(7), 1),
            ),
            (
                r#"{"allow":true,"type":"b","access":""}"#,
                (true, block, None, None, 7),
            ),
            (r#"{"allow":true,"type":"b"}"#, (true, block, None, None, 7)),
            (
                r#"{"allow":true,"type":"a","major":1,"minor":3,"access":"r"}"#,
                (true, None, None, None, 7),
            ),
            (r#"{"allow":false}"#, (false, None, None, None, 7)),
        ] {
            assert_eq!(read(json).unwrap(), expected, "{json}");
        }
        for (bad, why) in [
            (r#"{"allow":true,"access":"rx"}"#, "\"x\""),
            (r#"{"allow":true,"type":"p"}"#, "a, b, c or u"),
        ] {
            let said = read(bad).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn programs_are_instruction_by_instruction_as_the_kernel_defines_them() {
        let deny = rules(r#"[{"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#);
        let found: Vec<_> = compile(deny.iter())
            .iter()
            .map(|i| (i.code, i.registers, i.offset, i.immediate))
            .collect();
        let expected = [
            (0x61, 0x12, 0, 0),      // r2 = *(u32 *)(r1 + 0)
            (0x57, 0x02, 0, 0xffff), // r2 &= 0xffff
            (0x61, 0x13, 0, 0),      // r3 = *(u32 *)(r1 + 0)
            (0x77, 0x03, 0, 16),     // r3 >>= 16
            (0x61, 0x14, 4, 0),      // r4 = *(u32 *)(r1 + 4)
            (0x61, 0x15, 8, 0),      // r5 = *(u32 *)(r1 + 8)
            (0x55, 0x02, 7, 1),      // if r2 != 1 goto the next rule
            (0x55, 0x04, 6, 8),
            (0x55, 0x05, 5, 1),
            (0xbf, 0x31, 0, 0), // r1 = r3
            (0x57, 0x01, 0, 4), // r1 &= 4
            (0x15, 0x01, 2, 0), // if r1 == 0 goto the next rule
            (0xb7, 0x00, 0, 0), // r0 = 0
            (0x95, 0x00, 0, 0), // exit
            (0xb7, 0x00, 0, 0),
            (0x95, 0x00, 0, 0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_kernel_takes_the_program() {
        require!(root());
        let rules = rules(r#"[{"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#);
        match load(&compile(rules.iter().chain(ALWAYS))) {
            // A kernel without BPF for cgroups.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                require!(Err::<(), _>(Reason::SystemCall("bpf(2) for cgroups")));
            }
            loaded => drop(loaded.unwrap()),
        }
        // It is the kernel that looks: a program without an end is refused.
        let endless = [op(SET, ANSWER, 0, 0, 0)];
        assert!(load(&endless).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)));
    }
}
