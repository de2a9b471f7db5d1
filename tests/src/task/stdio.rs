//! The stdio of processes: FIFOs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::bed::Bed;
use crate::capture::Capture;

/// Makes a FIFO.
pub fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
    path
}

/// The reading end of a FIFO. The first read opens it, which waits for a writer.
struct Late(PathBuf, Option<File>);

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_none() {
            self.1 = Some(File::open(&self.0)?);
        }
        self.1.as_mut().map_or(Ok(0), |file| file.read(buffer))
    }
}

/// The stdio of a process: one FIFO per stream.
pub struct Stdio {
    /// The FIFO of its input.
    pub stdin: PathBuf,
    /// The FIFO of its output.
    pub stdout: PathBuf,
    /// The FIFO of its errors.
    pub stderr: PathBuf,
    /// Its output so far.
    pub out: Capture,
    /// Its errors so far.
    pub err: Capture,
}

impl Stdio {
    /// Makes the FIFOs.
    pub fn new(bed: &Bed) -> Self {
        let folder = bed.fresh("stdio");
        fs::create_dir(&folder).expect("the bed is ours");
        let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(&folder, name));
        let out = Capture::of(Late(stdout.clone(), None));
        let err = Capture::of(Late(stderr.clone(), None));
        Self {
            stdin,
            stdout,
            stderr,
            out,
            err,
        }
    }

    /// The writing end of its input. The other end may not be open yet.
    pub fn writer(&self) -> File {
        let options = &mut File::options();
        let file = options.read(true).write(true).open(&self.stdin);
        file.expect("our fifo")
    }
}
