//! Landlock: what the process may open, independent of the descriptors that it holds.
//!
//! A descriptor that was opened to read can be opened again to write, by its link in
//! `/proc/self/fd`: the process has the ids of the host's root, to whom the files are
//! open. Landlock judges where the file is that a link leads to. Below the share all is
//! allowed, mounts that come later included; anywhere else nothing is opened any more.

use std::io::Error;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};

use super::{JailError, step};

/// The newest version whose rights are known here; of an older kernel's, those that it
/// has are taken.
const NEWEST: ABI = ABI::V5;

/// Confines the calling thread, and those that it will start.
pub(super) fn restrict(share: &str, sockets: &str) -> Result<(), JailError> {
    let dir = |path| {
        PathFd::new(path).map_err(|err| step("find a directory of the jail")(Error::other(err)))
    };
    match ruleset(dir(share)?, dir(sockets)?) {
        Ok(()) => Ok(()),
        // The kernel has no Landlock, or an earlier one that cannot allow a file to be moved to
        // another directory (Linux before 5.19). Read-only files stay so by their mounts, too.
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
