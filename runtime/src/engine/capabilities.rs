//! Sets of capabilities (capabilities(7)).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::{Error, Result};

/// The default capabilities of containers, as with podman.
const USUAL: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The other capabilities.
const FURTHER: [Capability; 30] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::Syslog,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::WakeAlarm,
];

/// Every capability.
pub fn all() -> LinuxCapabilities {
    of(&USUAL.into_iter().chain(FURTHER).collect())
}

/// The default capabilities with `more` added and `less` removed; `all` stands for all.
///
/// # Errors
/// [`Error::InvalidValue`] for an unknown name.
pub fn usual(more: &[String], less: &[String]) -> Result<LinuxCapabilities> {
    let mut set: Capabilities = USUAL.into_iter().collect();
    for name in less {
        match named(name)? {
            Some(capability) => drop(set.remove(&capability)),
            None => set.clear(),
        }
    }
    for name in more {
        match named(name)? {
            Some(capability) => drop(set.insert(capability)),
            None => set.extend(USUAL.into_iter().chain(FURTHER)),
        }
    }
    Ok(of(&set))
}

/// A capability by its name; `None` for all of them.
fn named(name: &str) -> Result<Option<Capability>> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" {
        return Ok(None);
    }
    plain.parse().map(Some).map_err(|_| {
        Error::invalid(
            "capability",
            name,
            "one of capabilities(7), such as NET_ADMIN",
        )
    })
}

fn of(set: &Capabilities) -> LinuxCapabilities {
    let built = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set.clone())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build();
    built.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(set: &LinuxCapabilities) -> usize {
        set.bounding().as_ref().map_or(0, |set| set.len())
    }

    #[test]
    fn sets_are_made_by_name() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(count(&usual(&[], &[]).unwrap()), 11);
        let more = usual(&names(&["cap_net_admin", "SYS_TIME"]), &names(&["kill"])).unwrap();
        assert_eq!(count(&more), 12);
        let one = usual(&names(&["NET_RAW"]), &names(&["all"])).unwrap();
        assert_eq!(count(&one), 1);
        assert_eq!(count(&usual(&names(&["ALL"]), &[]).unwrap()), count(&all()));
        // capabilities(7), up to CAP_CHECKPOINT_RESTORE.
        assert_eq!(count(&all()), 41);
        let error = usual(&names(&["FLY"]), &[]).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidValue { value, .. } if value == "FLY"),
            "{error}"
        );
    }

    #[test]
    fn sets_are_bounded_effective_and_permitted_but_never_inherited() {
        for set in [all(), usual(&[], &[]).unwrap()] {
            let bounding = set.bounding().as_ref().unwrap();
            assert_eq!(set.effective().as_ref(), Some(bounding));
            assert_eq!(set.permitted().as_ref(), Some(bounding));
            assert!(set.inheritable().as_ref().is_none_or(|set| set.is_empty()));
            assert!(set.ambient().as_ref().is_none_or(|set| set.is_empty()));
        }
        let usual = usual(&[], &[]).unwrap();
        let usual = usual.bounding().as_ref().unwrap();
        for strong in [
            Capability::SysAdmin,
            Capability::NetAdmin,
            Capability::SysModule,
        ] {
            assert!(!usual.contains(&strong), "{strong}");
        }
    }

    #[test]
    fn what_is_added_goes_over_what_is_dropped() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let set = |more: &[&str], less: &[&str]| usual(&names(more), &names(less)).unwrap();
        let has = |set: &LinuxCapabilities, one| set.bounding().as_ref().unwrap().contains(&one);
        assert!(has(&set(&["KILL"], &["KILL"]), Capability::Kill));
        assert!(!has(&set(&[], &["Cap_Kill"]), Capability::Kill));
        assert_eq!(count(&set(&["all"], &["all"])), count(&all()));
        assert_eq!(count(&set(&[], &["all"])), 0);
        // Dropping a capability that is not in the set is no error; an unknown name is one.
        assert_eq!(count(&set(&[], &["SYS_ADMIN"])), 11);
        for (more, less) in [(&["CAP_"][..], &[][..]), (&[], &["CAP_FLY"]), (&[""], &[])] {
            let refused = usual(&names(more), &names(less)).unwrap_err();
            assert_eq!(refused.kind(), crate::error::ErrorKind::InvalidArgument);
        }
    }
}
