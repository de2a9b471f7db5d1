//! The system calls that the threads of each kind may make.
//!
//! [`rules()`] has an allow-list for each [kind](super::ThreadKind). Any other call ends the
//! process, after a log line with the call's name (see `violation`). Threads inherit filters,
//! and the strictest filter decides; the spawner's filter allows the calls of all kinds.

mod names;
mod rules;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::kind::ThreadKind;
pub use rules::{Arg, Rule, rules};
pub use violation::EXIT_CODE;
pub(super) use violation::watch;

/// Limits the calling thread to the system calls of its kind.
pub(super) fn install(kind: ThreadKind) -> io::Result<()> {
    let programs = programs(kind).map_err(io::Error::other)?;
    violation::set_kind(kind);
    programs
        .iter()
        .try_for_each(|program| seccompiler::apply_filter(program))
        .map_err(io::Error::other)
}

/// The filters of a kind; the strictest result for a call counts.
fn programs(kind: ThreadKind) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let list = compile(kind)?;
    match kind {
        ThreadKind::Spawner => Ok(vec![without_clone3()?, list]),
        _ => Ok(vec![list]),
    }
}

/// clone3(2) has its flags in memory, which filters cannot read. The filter behaves like a
/// kernel without this call, so that libc uses clone(2).
fn without_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::x86_64,
    )?
    .try_into()
}

fn compile(kind: ThreadKind) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let (mut plain, mut limited) = (Vec::new(), Vec::new());
    for rule in rules(kind) {
        if rule.args.is_empty() {
            plain.push(rule.call);
        } else {
            limited.push(rule);
        }
    }
    for rule in limited {
        let conditions = rule.args.iter().map(Arg::condition);
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        let chain = calls.entry(rule.call).or_default();
        chain.push(SeccompRule::new(conditions)?);
    }
    // Without conditions all arguments are allowed, even if another group has
    // conditions.
    calls.extend(plain.into_iter().map(|call| (call, Vec::new())));
    SeccompFilter::new(
        calls,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

impl Arg {
    fn condition(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (index, operator, value) = match *self {
            Arg::Is(index, value) => (index, SeccompCmpOp::Eq, value),
            Arg::Without(index, bits) => (index, SeccompCmpOp::MaskedEq(bits), 0),
        };
        // The kernel also uses only the lower half of an argument of type int.
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
    }

    /// Whether these arguments meet all conditions.
    pub fn fits(&self, args: &[u64]) -> bool {
        let value = |index: u8| args.get(usize::from(index)).map(|arg| arg & 0xffff_ffff);
        match *self {
            Arg::Is(index, wanted) => value(index) == Some(wanted),
            Arg::Without(index, bits) => value(index).is_some_and(|arg| arg & bits == 0),
        }
    }
}
