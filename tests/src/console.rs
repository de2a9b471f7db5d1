//! The console of a bare VM, read while the VM writes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::capture::Capture;

/// Makes a FIFO at the path of the VM's console log, so that output can be read at once.
pub fn listen(path: &Path) -> Capture {
    mkfifo(path, Mode::S_IRWXU).expect("the VM's folder is ours");
    Capture::of(Fifo::Path(path.to_owned()))
}

/// A FIFO whose first read waits for the writer.
enum Fifo {
    /// Not opened yet.
    Path(PathBuf),
    /// With its writer.
    Open(File),
}

impl Read for Fifo {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Path(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        match self {
            Self::Open(file) => file.read(buffer),
            Self::Path(_) => Ok(0),
        }
    }
}
