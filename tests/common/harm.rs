//! What storage does to files.

use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};

/// One way to lose an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// One bit, so far from the start (or, if negative, from the end).
    Flip(i64),
    /// One bit in the middle.
    FlipMiddle,
    /// Only so many bytes are left (if negative: all but so many).
    Cut(i64),
    CutInHalf,
    Zeros,
    Gone,
    /// More stands behind it.
    Longer,
    /// Something else in its place.
    Fifo,
    Folder,
    Loop,
}

use Harm::{Cut, CutInHalf, Fifo, Flip, FlipMiddle, Folder, Gone, Longer, Loop, Zeros};

impl Harm {
    /// Does it to a file.
    pub(crate) fn apply(self, file: &Path) {
        let mut bytes = std::fs::read(file).unwrap();
        let len = bytes.len();
        let from_start = |n: i64| if n < 0 { len - n.unsigned_abs() as usize } else { n as usize };
        match self {
            Flip(at) => bytes[from_start(at)] ^= 4,
            FlipMiddle => bytes[len / 2] ^= 4,
            Cut(left) => bytes.truncate(from_start(left)),
            CutInHalf => bytes.truncate(len / 2),
            Zeros => bytes.fill(0),
            Gone => return std::fs::remove_file(file).unwrap(),
            Longer => bytes.push(0),
            Fifo | Folder | Loop => {
                std::fs::remove_file(file).unwrap();
                match self {
                    Fifo => mkfifoat(CWD, file, Mode::RUSR).unwrap(),
                    Folder => std::fs::create_dir(file).unwrap(),
                    _ => std::os::unix::fs::symlink(file, file).unwrap(),
                }
                return;
            }
        }
        std::fs::write(file, bytes).unwrap();
    }
}

/// Writes an object again, whatever stands in its place: a FIFO would wait for somebody to read it.
pub(crate) fn put_back(object: &Path, bytes: &[u8]) {
    match std::fs::symlink_metadata(object) {
        Ok(m) if m.is_dir() => std::fs::remove_dir(object).unwrap(),
        Ok(m) if !m.is_file() => std::fs::remove_file(object).unwrap(),
        _ => {}
    }
    std::fs::write(object, bytes).unwrap();
}
