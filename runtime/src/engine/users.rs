//! Users by name: looked up in the container's own `/etc/passwd` and `/etc/group`, in its
//! layers, before they are mounted.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use oci_spec::runtime::{Process, UserBuilder};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::archive::Inode;
use crate::error::{Context, Error, Result, UserError};

/// The largest user database; a larger file is refused.
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
/// [`Error::User`] for an unknown name, and for a number that is not a valid id;
/// [`Error::Io`] and [`Error::BadFile`] for files that cannot be read.
pub(crate) fn look_up(layers: &[PathBuf], wanted: &str) -> Result<User> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let passwd = read(layers, PASSWD)?;
    let groups = read(layers, GROUP)?;
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

/// Reads a file from the uppermost layer that has it; empty if no layer has it. Links do
/// not lead out, and anything else of its name hides the file below.
///
/// # Errors
/// [`Error::Io`] if a layer cannot be read; [`Error::BadFile`] for more than [`MAX_BYTES`].
fn read(layers: &[PathBuf], path: &str) -> Result<String> {
    for layer in layers {
        let dir = match File::open(layer) {
            // The writable layer is created by the first start.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            dir => dir.on("open", layer)?,
        };
        let at = layer.join(path.trim_start_matches('/'));
        let opened = openat2(
            &dir,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let found = match opened {
            Err(Errno::NOENT) => continue,
            Err(Errno::NOTDIR | Errno::LOOP) => break,
            found => found.and_then(Inode::of).on("look at", &at)?,
        };
        // A character device may be a whiteout: the file was removed. A device in an image
        // would be the host's, and opening it, or a FIFO, may have side effects.
        if !found.kind().is_file() {
            break;
        }
        let file = File::from(found.read().on("open", &at)?);
        let mut text = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
        if read.on("read", &at)? as u64 > MAX_BYTES {
            let problem = format!("it has more than {MAX_BYTES} bytes");
            return Err(Error::bad_file(at, problem));
        }
        // The full names of users may be in any encoding.
        return Ok(String::from_utf8_lossy(&text).into_owned());
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind as ErrorClass;
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

    /// Does `work` on a thread: a FIFO that is opened for reading waits for a writer.
    fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(work()));
        let patience = std::time::Duration::from_secs(20);
        done.recv_timeout(patience).expect("it does not wait")
    }

    #[test]
    fn a_fifo_or_directory_in_place_of_a_file_is_not_opened_and_hides_the_one_below() {
        for file in ["passwd", "group"] {
            for directory in [false, true] {
                let (dir, layers) = layers();
                let path = layers[0].join("etc").join(file);
                if directory {
                    fs::create_dir(&path).unwrap();
                } else {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
                }
                let (by_name, by_number) = in_time(move || {
                    let found = ["web:www", "33"].map(|text| look_up(&layers, text));
                    drop(dir);
                    let [by_name, by_number] = found;
                    (by_name, by_number.unwrap())
                });
                assert_eq!(by_name.unwrap_err().kind(), ErrorClass::InvalidArgument);
                // Without its entry a number has neither group nor home, without the
                // other file no further groups.
                match file {
                    "passwd" => assert_eq!((by_number.gid, by_number.home), (0, None)),
                    _ => assert_eq!((by_number.gid, by_number.groups), (34, vec![34])),
                }
            }
        }
    }

    #[test]
    fn a_database_of_any_encoding_is_read_and_one_without_end_is_refused() {
        let (_dir, layers) = layers();
        let path = layers[0].join("etc/passwd");
        let latin = b"anna:x:5:6:Anna M\xfcller:/home/anna:/bin/sh\n";
        fs::write(&path, latin).unwrap();
        let anna = look_up(&layers, "anna").unwrap();
        assert_eq!(
            (anna.uid, anna.gid, anna.home.as_deref()),
            (5, 6, Some("/home/anna"))
        );

        // As large as one may be, with its only entry at the end.
        let mut whole = vec![b'\n'; MAX_BYTES as usize - latin.len()];
        whole.extend(latin);
        fs::write(&path, &whole).unwrap();
        assert_eq!(look_up(&layers, "anna").unwrap(), anna);
        whole.push(b'\n');
        fs::write(&path, &whole).unwrap();
        for text in ["anna", "5"] {
            match look_up(&layers, text) {
                Err(Error::BadFile { path: named, .. }) => assert_eq!(named, path),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn layers_that_cannot_be_read_are_errors_and_not_empty() {
        let (dir, mut layers) = layers();
        // One that is made when something is written to it.
        layers.insert(0, dir.path().join("absent"));
        assert_eq!(look_up(&layers, "web").unwrap().uid, 33);
        let under_a_file = layers[2].join("etc/passwd/x");
        layers.insert(0, under_a_file.clone());
        for text in ["web", "33"] {
            match look_up(&layers, text) {
                Err(Error::Io { path, .. }) => assert_eq!(path, under_a_file),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_in_the_way_of_a_directory_hides_the_one_below() {
        let (_dir, layers) = layers();
        fs::remove_dir(layers[0].join("etc")).unwrap();
        for link in [false, true] {
            let etc = layers[0].join("etc");
            match link {
                true => std::os::unix::fs::symlink("etc", &etc).unwrap(),
                false => fs::write(&etc, "").unwrap(),
            }
            assert!(look_up(&layers, "web").is_err(), "{link}");
            assert_eq!(look_up(&layers, "33").unwrap().gid, 0, "{link}");
            fs::remove_file(&etc).unwrap();
        }
        assert_eq!(look_up(&layers, "web").unwrap().uid, 33);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let (_dir, layers) = layers();
        let passwd = "short:x:1:2:g\n\n#c\nx:x:9:9:g:/home:/sh:more\nbad:x:z:1:g:/h:\n";
        fs::write(layers[0].join("etc/passwd"), passwd).unwrap();
        let group = "short:x:1\n\nmany:x:5:a,x,b\nother:x:6:xx\nno:x:z:x\nown:x:9:x\n";
        fs::write(layers[0].join("etc/group"), group).unwrap();
        assert_eq!(look_up(&layers, "x").unwrap().groups, [9, 5]);
        for text in ["short", "bad", "x:short", "x:no"] {
            let refused = look_up(&layers, text).unwrap_err();
            assert_eq!(refused.kind(), ErrorClass::InvalidArgument, "{text}");
        }
        // The last number that is an id, in both places.
        let last = look_up(&layers, "4294967294:4294967294").unwrap();
        assert_eq!((last.ids(), last.home), ((NO_ID - 1, NO_ID - 1), None));
    }

    #[test]
    fn a_home_is_the_processs_own_or_the_users_or_the_root() {
        let user = |home: Option<&str>| User {
            uid: 33,
            gid: 34,
            groups: vec![34, 50],
            home: home.map(str::to_owned),
        };
        for (env, home, expected) in [
            (&["A=1"][..], Some("/srv"), &["A=1", "HOME=/srv"][..]),
            (&[], Some(""), &["HOME=/"]),
            (&[], None, &["HOME=/"]),
            (&["HOME=/x"], Some("/srv"), &["HOME=/x"]),
            (&["HOME="], Some("/srv"), &["HOME="]),
            (
                &["HOMES=/x", "AHOME=/y"],
                Some("/srv"),
                &["HOMES=/x", "AHOME=/y", "HOME=/srv"],
            ),
        ] {
            let mut process = Process::default();
            process.set_env(Some(env.iter().map(|pair| (*pair).to_owned()).collect()));
            apply(&mut process, &user(home));
            assert_eq!(process.env().as_deref().unwrap(), expected);
            let set = process.user();
            assert_eq!((set.uid(), set.gid()), (33, 34));
            assert_eq!(set.additional_gids().as_deref(), Some(&[34, 50][..]));
        }
        let mut process = Process::default();
        process.set_env(None);
        apply(&mut process, &user(Some("/srv")));
        assert_eq!(process.env().as_deref().unwrap(), ["HOME=/srv"]);
    }
}
