//! Block devices in specs: those of the host's spec, and their numbers in the guest's.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};

use super::host;
use super::{Disk, Number, Wanted};
use crate::container::guest_spec::is_bind;

/// The block devices that `spec` asks for; its relative paths are below `bundle`.
pub(crate) fn wanted(spec: &Spec, bundle: &Path) -> Vec<Wanted> {
    let linux = spec.linux().as_ref();
    let rules = linux
        .and_then(|linux| linux.resources().as_ref())
        .and_then(|resources| resources.devices().as_ref());
    let mut wanted = Vec::new();
    for device in linux
        .and_then(|l| l.devices().as_ref())
        .into_iter()
        .flatten()
    {
        let number = numbers(device.major(), device.minor());
        let (LinuxDeviceType::B, Some(number)) = (device.typ(), number) else {
            continue;
        };
        let allowed = |rule: &&LinuxDeviceCgroup| rule.allow() && of(rule) == Some(number);
        let Some(rule) = rules.into_iter().flatten().rfind(allowed) else {
            continue;
        };
        let access = rule.access().as_deref().unwrap_or("rwm");
        wanted.push(Wanted {
            number,
            path: device.path().clone(),
            read_only: !access.contains('w'),
            mount: None,
        });
    }
    for (n, mount) in spec.mounts().iter().flatten().enumerate() {
        let source = mount.source().as_ref().filter(|_| is_bind(mount));
        let number = source.and_then(|source| host::number(&bundle.join(source)));
        wanted.extend(number.map(|number| {
            Wanted {
                number,
                path: mount.destination().clone(),
                read_only: mount
                    .options()
                    .iter()
                    .flatten()
                    .any(|option| option == "ro"),
                mount: Some(n),
            }
        }));
    }
    wanted
}

/// Puts the guest's names and numbers of `disks` into the guest's spec.
pub(super) fn translate(guest: &mut Spec, wanted: &[Wanted], disks: &BTreeMap<Number, Disk>) {
    for (n, mount) in guest.mounts_mut().iter_mut().flatten().enumerate() {
        let number = wanted.iter().find(|w| w.mount == Some(n)).map(|w| w.number);
        if let Some(disk) = number.and_then(|number| disks.get(&number)) {
            mount.set_source(Some(Path::new("/dev").join(&disk.name)));
        }
    }
    let Some(linux) = guest.linux_mut() else {
        return;
    };
    for device in linux.devices_mut().iter_mut().flatten() {
        if device.typ() != LinuxDeviceType::B {
            continue;
        }
        let number = numbers(device.major(), device.minor());
        if let Some(disk) = number.and_then(|number| disks.get(&number)) {
            device.set_major(disk.number.0.into());
            device.set_minor(disk.number.1.into());
        }
    }
    let mut resources = linux.resources().clone().unwrap_or_default();
    rules(&mut resources, wanted, disks);
    linux.set_resources(Some(resources));
}

/// Adds device rules for the guest's numbers. A mount has no rule of its own.
fn rules(resources: &mut LinuxResources, wanted: &[Wanted], disks: &BTreeMap<Number, Disk>) {
    let mut rules = resources.devices().clone().unwrap_or_default();
    for rule in &mut rules {
        if let Some(disk) = of(rule).and_then(|number| disks.get(&number)) {
            rule.set_major(Some(disk.number.0.into()));
            rule.set_minor(Some(disk.number.1.into()));
        }
    }
    for mount in wanted.iter().filter(|wanted| wanted.mount.is_some()) {
        if let Some(disk) = disks.get(&mount.number) {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true);
            rule.set_typ(Some(LinuxDeviceType::B));
            rule.set_major(Some(disk.number.0.into()));
            rule.set_minor(Some(disk.number.1.into()));
            let access = if mount.read_only { "r" } else { "rw" };
            rule.set_access(Some(access.into()));
            rules.push(rule);
        }
    }
    resources.set_devices(Some(rules));
}

/// The one block device that a rule applies to.
fn of(rule: &LinuxDeviceCgroup) -> Option<Number> {
    (rule.typ() == Some(LinuxDeviceType::B)).then_some(())?;
    numbers(rule.major()?, rule.minor()?)
}

fn numbers(major: i64, minor: i64) -> Option<Number> {
    Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rules: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion": "1.0.2", "mounts": [{{"destination": "/p", "source": "proc"}}],
                "linux": {{
                "devices": [
                    {{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}},
                    {{"path": "/dev/data", "type": "b", "major": 7, "minor": 3}},
                    {{"path": "/dev/other", "type": "b", "major": 8, "minor": 0}}],
                "resources": {{"devices": [{{"allow": false, "access": "rwm"}} {rules}]}}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    const RULE: &str = r#", {"allow": true, "type": "b", "major": 7, "minor": 3, "access": "rwm"}"#;

    #[test]
    fn a_device_is_wanted_that_has_a_rule_of_its_own() {
        let wanted = |rules: &str| super::wanted(&spec(rules), Path::new("/"));

        let found = wanted(RULE);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].number, found[0].read_only), ((7, 3), false));
        assert_eq!(found[0].path, Path::new("/dev/data"));

        assert!(wanted(&RULE.replace("rwm", "rm"))[0].read_only);
        // A privileged container.
        assert_eq!(wanted(r#", {"allow": true, "access": "rwm"}"#), []);
        assert_eq!(
            wanted(&RULE.replace(r#""type": "b""#, r#""type": "c""#)),
            []
        );
        assert_eq!(wanted(&RULE.replace("true", "false")), []);
    }

    #[test]
    fn devices_rules_and_mounts_get_the_numbers_of_the_guest() {
        let mut guest = spec(RULE);
        let mut wanted = wanted(&guest, Path::new("/"));
        wanted.push(Wanted {
            number: (259, 1),
            path: "/p".into(),
            read_only: true,
            mount: Some(0),
        });
        let disk = |name: &str, minor| Disk {
            name: name.into(),
            number: (254, minor),
        };
        let disks = BTreeMap::from([((7, 3), disk("vda", 0)), ((259, 1), disk("vdb", 16))]);

        translate(&mut guest, &wanted, &disks);

        let json = serde_json::to_value(&guest).unwrap();
        let linux = &json["linux"];
        let number = |value: &serde_json::Value| (value["major"].as_i64(), value["minor"].as_i64());
        let of = |list: &serde_json::Value| -> Vec<_> {
            list.as_array().unwrap().iter().map(number).collect()
        };
        let some = |major, minor| (Some(major), Some(minor));
        assert_eq!(
            of(&linux["devices"]),
            [some(10, 229), some(254, 0), some(8, 0)]
        );
        let rules = &linux["resources"]["devices"];
        assert_eq!(of(rules), [(None, None), some(254, 0), some(254, 16)]);
        assert_eq!(rules[2]["access"], "r");
        assert_eq!(json["mounts"][0]["source"], "/dev/vdb");
    }
}
