//! Uses a file system in every way that has a FUSE request of its own. The test of the seccomp
//! filters runs it in a container: `workout DIR`.
//!
//! Linked like the other binaries of the tests, so the container needs the host's `/lib`.

use std::error::Error;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timestamps, XattrFlags,
};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("workout DIR")?;
    let dir = Path::new(&dir);
    let path = |name: &str| dir.join(name);

    // Files: data, size, holes, fsync, statfs and lseek.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o6755)
        .open(path("file"))?;
    file.write_all(&vec![1; 3 << 20])?;
    file.sync_data()?;
    file.sync_all()?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 8 << 20)?;
    file.set_len(6 << 20)?;
    let hole = rustix::fs::SeekFrom::Hole(0);
    rustix::fs::seek(&file, hole)?;
    rustix::fs::statvfs(dir)?;
    file.set_permissions(Permissions::from_mode(0o4711))?;
    rustix::fs::futimens(&file, &epoch())?;
    file.seek(SeekFrom::Start(0))?;
    let mut data = Vec::new();
    file.read_to_end(&mut data)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND)?;
    file.write_all(b"more")?;
    drop(file);

    // Without the page cache, and by the path.
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path("file"))?;
    let map = std::alloc::Layout::from_size_align(4096, 4096)?;
    // SAFETY: it has the size and alignment for O_DIRECT, and is used as bytes only.
    let page = unsafe { std::slice::from_raw_parts_mut(std::alloc::alloc_zeroed(map), 4096) };
    direct.write_all_at(page, 0)?;
    direct.read_exact_at(page, 4096)?;
    drop(direct);
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path("file"))?;
    fs::set_permissions(path("file"), Permissions::from_mode(0o6644))?;
    chown(path("file"), Some(1000), Some(1000))?;
    let at = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, path("file"), &epoch(), at)?;

    // Names: directories, links and renames.
    fs::create_dir(path("dir"))?;
    symlink("file", path("link"))?;
    fs::read_link(path("link"))?;
    fs::hard_link(path("file"), path("hard"))?;
    let device = rustix::fs::makedev(0, 0);
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, mode, device)?;
    fs::rename(path("hard"), path("dir/hard"))?;
    let exchange = RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, path("file"), CWD, path("dir/hard"), exchange)?;
    for entry in fs::read_dir(dir)? {
        entry?.metadata()?;
    }
    File::open(path("dir"))?.sync_all()?;

    // Extended attributes.
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(path("file"), "user.a", b"1", flags)?;
    let mut value = [0; 64];
    rustix::fs::getxattr(path("file"), "user.a", &mut value)?;
    rustix::fs::listxattr(path("file"), &mut [0; 256])?;
    rustix::fs::removexattr(path("file"), "user.a")?;

    // As another user, with set-user-id bits that a write clears.
    fs::set_permissions(dir, Permissions::from_mode(0o777))?;
    File::create(path("suid"))?.write_all(b"#")?;
    chown(path("suid"), Some(1000), Some(1000))?;
    fs::set_permissions(path("suid"), Permissions::from_mode(0o6777))?;
    as_user(1000, || {
        fs::write(path("theirs"), "x")?;
        OpenOptions::new()
            .append(true)
            .open(path("suid"))?
            .write_all(b"!")?;
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path("suid"))?;
        Ok(())
    })?;

    for name in ["dir/hard", "link", "fifo", "file", "theirs", "suid"] {
        fs::remove_file(path(name))?;
    }
    fs::remove_dir(path("dir"))?;
    println!("done");
    Ok(())
}

fn epoch() -> Timestamps {
    let time = rustix::fs::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Does `work` in a child process with this user id.
fn as_user(
    id: u32,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, Gid, Uid, fork, setgid, setuid};
    // SAFETY: this program has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let ids = setgid(Gid::from_raw(id)).and_then(|()| setuid(Uid::from_raw(id)));
            let done = ids.map_err(Into::into).and_then(|()| work());
            if let Err(error) = &done {
                eprintln!("as user {id}: {error}");
            }
            std::process::exit(done.is_err().into());
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    }
}
