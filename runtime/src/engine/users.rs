//! Users by name: looked up in the container's own `/etc/passwd` and `/etc/group`, in its
//! layers, before they are mounted.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use oci_spec::runtime::{Process, UserBuilder};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::archive::Inode;
use crate::error::{Error, Result, UserError};

/// The largest user database; a larger file is not read.
const MAX_BYTES: u64 = 1 << 20;

/// An id that means "unchanged" to setresuid(2) and chown(2), so it is not valid.
const NO_ID: u32 = u32::MAX;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: Vec<u32>,
    home: Option<String>,
}

impl User {
    /// Its user and group id.
    pub(crate) fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }
}

/// Finds `name`, `uid`, `name:group`, `uid:gid` … in a container's files. A number is an id,
/// even if a user has it as name.
///
/// # Errors
/// [`Error::User`] for an unknown name, and for a number that is not a valid id.
pub(crate) fn look_up(layers: &[PathBuf], wanted: &str) -> Result<User> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let passwd = read(layers, PASSWD);
    let groups = read(layers, GROUP);
    let uid = number(user)?;
    // passwd(5): name:password:UID:GID:GECOS:directory:shell
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entry
        .filter(|fields| fields.len() >= 6)
        .find(|f| match uid {
            Some(uid) => f[2].parse() == Ok(uid),
            None => f[0] == user,
        });
    let mut found = match (&entry, uid) {
        (Some(fields), _) => User {
            uid: id(fields[2], PASSWD)?,
            gid: id(fields[3], PASSWD)?,
            groups: Vec::new(),
            home: Some(fields[5].to_owned()),
        },
        (None, Some(uid)) => User {
            uid,
            ..User::default()
        },
        (None, None) => {
            return Err(unknown("user", user, PASSWD));
        }
    };
    // group(5): name:password:GID:members
    let list = groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let list: Vec<_> = list.filter(|fields| fields.len() >= 4).collect();
    match group {
        Some(group) => {
            let given = number(group)?;
            let entry = list.iter().find(|f| f[0] == group);
            found.gid = match (given, entry) {
                (Some(gid), _) => gid,
                (None, Some(fields)) => id(fields[2], GROUP)?,
                (None, None) => {
                    return Err(unknown("group", group, GROUP));
                }
            };
        }
        None => {
            let name = entry.as_ref().map_or(user, |fields| fields[0]);
            let member = list.iter().filter(|f| f[3].split(',').any(|m| m == name));
            found.groups = member.filter_map(|f| f[2].parse().ok()).collect();
        }
    }
    // As with podman and containerd, the primary group is one of the supplementary groups, too:
    // a process that changes its group keeps this one's rights, and stays denied what a rule
    // denies to this one.
    found.groups.retain(|gid| *gid != found.gid);
    found.groups.insert(0, found.gid);
    Ok(found)
}

/// The number in a word of digits alone.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|id| *id != NO_ID);
    id.map(Some).ok_or_else(|| {
        let expected = format!("0 to {}", NO_ID - 1);
        Error::invalid("user or group id", text, expected)
    })
}

/// Sets the user of a process, and its home if it has none.
pub(crate) fn apply(process: &mut Process, user: &User) {
    let built = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups.clone())
        .build();
    if let Ok(built) = built {
        process.set_user(built);
    }
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        let home = user.home.as_deref().filter(|home| !home.is_empty());
        env.push(format!("HOME={}", home.unwrap_or("/")));
        process.set_env(Some(env));
    }
}

fn unknown(what: &'static str, name: &str, file: &'static str) -> Error {
    let name = name.to_owned();
    UserError::Unknown { what, name, file }.into()
}

fn id(text: &str, file: &'static str) -> Result<u32> {
    let id = text.parse().ok().filter(|id| *id != NO_ID);
    id.ok_or_else(|| {
        let id = text.to_owned();
        UserError::Id { file, id }.into()
    })
}

/// Reads a file from the uppermost layer that has it; links do not lead out.
fn read(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        let Ok(dir) = File::open(layer) else {
            continue;
        };
        let opened = openat2(
            &dir,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(found) = opened.and_then(Inode::of) else {
            continue;
        };
        // A character device may be a whiteout: the file was removed. Another device in an
        // image would be the host's, and opening it may have side effects.
        if found.kind().is_char_device() || found.kind().is_block_device() {
            break;
        }
        if !found.kind().is_file() {
            continue;
        }
        let Ok(file) = found.read().map(File::from) else {
            continue;
        };
        let mut text = String::new();
        if file.take(MAX_BYTES).read_to_string(&mut text).is_ok() {
            return text;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn layers() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let layers = ["upper", "lower"].map(|name| dir.path().join(name));
        for layer in &layers {
            fs::create_dir_all(layer.join("etc")).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n";
        fs::write(layers[1].join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";
        fs::write(layers[1].join("etc/group"), group).unwrap();
        (dir, layers.to_vec())
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let (_dir, layers) = layers();
        let user = |uid, gid, groups: &[u32]| (uid, gid, groups.to_vec());
        let found = |text: &str| {
            let user = look_up(&layers, text).unwrap();
            (user.uid, user.gid, user.groups)
        };
        assert_eq!(found("web"), user(33, 34, &[34, 50]));
        assert_eq!(found("33"), user(33, 34, &[34, 50]));
        assert_eq!(found("web:root"), user(33, 0, &[0]));
        assert_eq!(found("1000"), user(1000, 0, &[0]));
        assert_eq!(found("1000:7"), user(1000, 7, &[7]));
        assert_eq!(found("0:www"), user(0, 34, &[34]));
    }

    #[test]
    fn a_number_is_an_id_whoever_is_called_so() {
        let (_dir, layers) = layers();
        let passwd = "1234:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\n";
        fs::write(layers[0].join("etc/passwd"), passwd).unwrap();
        let group = "77:x:0:\nwww:x:34:web\n";
        fs::write(layers[0].join("etc/group"), group).unwrap();
        let found = |text: &str| {
            let user = look_up(&layers, text).unwrap();
            (user.uid, user.gid, user.groups)
        };
        assert_eq!(found("1234"), (1234, 0, vec![0]));
        assert_eq!(found("33:77"), (33, 77, vec![77]));
        assert_eq!(found("web"), (33, 34, vec![34]));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let (_dir, layers) = layers();
        // The kernel would take the last one for "unchanged", that is, root.
        for text in ["99999999999", "4294967296", "4294967295", "0:4294967295"] {
            let error = look_up(&layers, text).unwrap_err();
            assert!(matches!(error, Error::InvalidValue { .. }), "{error}");
        }
        let passwd = "minus:x:4294967295:0::/:/bin/sh\n";
        fs::write(layers[0].join("etc/passwd"), passwd).unwrap();
        let error = look_up(&layers, "minus").unwrap_err();
        assert!(
            matches!(&error, Error::User(UserError::Id { id, .. }) if id == "4294967295"),
            "{error}"
        );
    }

    #[test]
    fn who_is_not_there_is_named() {
        let (_dir, layers) = layers();
        for (text, named) in [("nobody", "nobody"), ("web:none", "none"), ("", "")] {
            let error = look_up(&layers, text).unwrap_err();
            assert!(
                matches!(&error, Error::User(UserError::Unknown { name, .. }) if name == named),
                "{error}"
            );
        }
    }

    #[test]
    fn what_was_removed_is_not_found_below() {
        use rustix::fs::{CWD, FileType, mknodat};
        let (_dir, layers) = layers();
        let path = layers[0].join("etc/passwd");
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        assert!(look_up(&layers, "web").is_err());
        // Another device is not opened, either (this one is /dev/null).
        fs::remove_file(&path).unwrap();
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), null).unwrap();
        assert!(look_up(&layers, "web").is_err());
    }

    #[test]
    fn the_upper_layer_counts_and_links_do_not_lead_out() {
        let (dir, layers) = layers();
        fs::write(layers[0].join("etc/passwd"), "web:x:44:44::/:\n").unwrap();
        assert_eq!(look_up(&layers, "web").unwrap().uid, 44);
        fs::write(dir.path().join("passwd"), "evil:x:0:0::/:\n").unwrap();
        fs::remove_file(layers[0].join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../passwd", layers[0].join("etc/passwd")).unwrap();
        assert!(look_up(&layers, "evil").is_err());
        assert_eq!(look_up(&layers, "web").unwrap().uid, 33);
    }
}
