//! Landlock: limits the files that the process may open, independent of its descriptors.
//!
//! A read-only descriptor can be reopened for writing, by its link in `/proc/self/fd`, since
//! the process has the ids of the host's root. Landlock decides by the place of the file that a
//! link leads to. Below the share everything is allowed, later mounts included; elsewhere no
//! file can be opened any more.

use std::io::Error;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};

use super::{JailError, step};

/// The newest known version. On an older kernel, the rights that it supports are used.
const NEWEST: ABI = ABI::V5;

/// Confines the calling thread and those that it starts.
pub(super) fn restrict(share: &str, sockets: &str) -> Result<(), JailError> {
    let dir = |path| {
        PathFd::new(path).map_err(|err| step("find a directory of the jail")(Error::other(err)))
    };
    match ruleset(dir(share)?, dir(sockets)?) {
        Ok(()) => Ok(()),
        // The kernel has no Landlock, or an old version that cannot allow moving a file to
        // another directory (Linux before 5.19). Files are still read-only by their mounts.
        Err(RulesetError::HandleAccesses(_)) => {
            log::info!("This kernel has no Landlock (5.19): the jail is without it");
            Ok(())
        }
        Err(err) => Err(step("restrict what can be opened")(Error::other(err))),
    }
}

fn ruleset(share: PathFd, sockets: PathFd) -> Result<(), RulesetError> {
    let never: BitFlags<AccessFs> = AccessFs::Execute | AccessFs::IoctlDev;
    let all = AccessFs::from_all(NEWEST);
    let listening = AccessFs::MakeSock | AccessFs::RemoveFile;
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer | AccessFs::WriteFile | AccessFs::ReadFile)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(share, all & !never))?
        .add_rule(PathBeneath::new(sockets, listening))?
        .restrict_self()?;
    Ok(())
}
