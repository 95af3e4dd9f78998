//! The log of a mount in the background: its standard error, which is a file that never grows beyond a few MiB.
//!
//! Whatever is printed there is in it, the words of a panic too. A full one is put aside as `FILE.1`, in place of the
//! one before, so that the last words are kept and the disk is never filled.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FileType;

/// How large it gets before it is put aside: with the one before, twice that.
const LIMIT: u64 = 2 << 20;

/// A log that standard error leads to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    limit: u64,
    turning: Mutex<()>,
}

impl Log {
    /// That of this process, whose standard error was opened at `path` by `open`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), limit: LIMIT, turning: Mutex::new(()) }
    }

    /// Makes room for what is written next. Called before every line; says nothing of a failure, which would have to
    /// be written there too.
    pub fn make_room(&self) {
        let _one_at_a_time = self.turning.lock();
        let _goes_on_as_it_is = self.turn();
    }

    fn turn(&self) -> io::Result<()> {
        let now = rustix::fs::fstat(rustix::stdio::stderr())?;
        // A pipe or terminal, given by -log-file, is no file to be put aside.
        if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile
            || u64::try_from(now.st_size).unwrap_or(0) < self.limit
        {
            return Ok(());
        }
        std::fs::rename(&self.path, before(&self.path))?;
        rustix::stdio::dup2_stderr(open(&self.path)?)?;
        Ok(())
    }
}

/// Opens a log at its end; makes it if there is none, for this user alone.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
