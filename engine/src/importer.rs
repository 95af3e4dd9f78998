//! The port to where data comes from. The backup walks a source directory by directory and opens what has changed.
//!
//! Calls block: they are made on the scan's and the readers' own threads, never on an async thread.
//! All paths are absolute in the source, `/`-separated bytes.

use std::fmt;
use std::sync::Arc;

use crate::meta::{InodeFlags, Metadata, Xattr};

/// A failure to read one thing of a source. Its text is what the snapshot keeps and the user sees: the cause only,
/// since the path stands beside it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ImportError {
    message: String,
    vanished: bool,
}

impl ImportError {
    /// A failure with its cause in words.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), vanished: false }
    }

    /// From an operating-system error; `what` is the operation ("open", "read", "list").
    pub fn io(what: &str, e: &std::io::Error) -> Self {
        Self { message: format!("{what}: {e}"), vanished: e.kind() == std::io::ErrorKind::NotFound }
    }

    /// Whether the thing was there when it was listed and is gone now.
    pub fn is_vanished(&self) -> bool {
        self.vanished
    }
}

/// What tells that an object has not changed since it was last read, beside size and mtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Time of the last change of contents or metadata, ns since 1970; 0 when the source has none.
    pub ctime_ns: i64,
    /// Inode or the like; 0 when the source has none that lasts.
    pub inode: u64,
    /// The file system, by what stays the same wherever and whenever it is mounted; 0 when the source has no such thing.
    pub volume: u64,
}

/// One name in a directory of a source.
#[derive(Clone, Debug)]
pub struct SourceEntry {
    /// Its name, without `/`.
    pub name: Vec<u8>,
    /// Its metadata. A regular file's size is what the source expects; how much there is, reading tells.
    pub meta: Metadata,
    /// Its change stamp.
    pub stamp: Stamp,
    /// Device and inode: what all names of one file have in common in this run.
    pub file: (u64, u64),
    /// Number of hard links to it (1 when the source has no such thing).
    pub links: u64,
    /// A regular file that takes less room than its size, so that it is worth asking for its holes.
    pub sparse: bool,
    /// A symlink's target.
    pub target: Option<Vec<u8>>,
    /// Of a directory: why what is in it is no part of the source.
    pub left_out: Option<LeftOut>,
}

/// Why what is in a directory is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Another file system is mounted there, and only one was asked for.
    OtherFileSystem,
    /// A store is mounted there: with it every backup would back up all others once more.
    OwnMount,
}

/// A name that was listed, and what could be learnt of it.
pub type ListedName = (Vec<u8>, Result<SourceEntry, ImportError>);

/// The names of a directory, some at a time, so that a million of them need not be in memory at once.
pub trait Listing: Send {
    /// The next `most` names, fewer only at the end, with their metadata or why they have none: in the order of bytes,
    /// without `.` and `..`. An error is about the directory itself.
    fn more(&mut self, most: usize) -> Result<Vec<ListedName>, ImportError>;
}

/// For sources that have all names at hand.
impl Listing for std::vec::IntoIter<ListedName> {
    fn more(&mut self, most: usize) -> Result<Vec<ListedName>, ImportError> {
        Ok(self.by_ref().take(most).collect())
    }
}

/// A source, opened for one run.
pub trait Importer: Send + Sync + fmt::Debug {
    /// Its type: `fs`, `s3`, …
    fn kind(&self) -> &str;

    /// Where it is: the host's name for `fs`.
    fn origin(&self) -> &str;

    /// What to back up: absolute paths without `.` or `..`, at least one. Symlinks in them are resolved already.
    fn roots(&self) -> &[Vec<u8>];

    /// Metadata of an absolute path: a root, or a parent of one. The name is its last part, empty for `/`.
    fn entry(&self, path: &[u8]) -> Result<SourceEntry, ImportError>;

    /// Opens a directory by absolute path: a root, or the parent of a root that is a file.
    fn directory(&self, path: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError>;

    /// The name of a user, if it is known.
    fn user_name(&self, uid: u32) -> Option<String>;

    /// The name of a group, if it is known.
    fn group_name(&self, gid: u32) -> Option<String>;
}

/// An open directory of a source. Everything in it is reached relative to it, so that paths may be of any length
/// and a renamed parent changes nothing.
pub trait SourceDirectory: Send + Sync {
    /// What is in it. An error is about the directory itself.
    fn list(self: Arc<Self>) -> Result<Box<dyn Listing>, ImportError>;

    /// Opens a directory in it. Never follows a symlink.
    fn open_directory(&self, name: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError>;

    /// Opens a regular file in it. Never follows a symlink, never blocks on a FIFO put in its place.
    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>, ImportError>;

    /// Extended attributes of something in it (not of a symlink's target), sorted by name. Empty for a source or a
    /// file system without them.
    fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>, ImportError>;

    /// Extended attributes of the directory itself.
    fn own_xattrs(&self) -> Result<Vec<Xattr>, ImportError>;

    /// Inode flags and project of a regular file in it; none set for a source or file system without them, `None` for a
    /// file that may not be opened: its contents may be known all the same.
    fn flags(&self, _name: &[u8]) -> Result<Option<InodeFlags>, ImportError> {
        Ok(Some(InodeFlags::default()))
    }

    /// Those of the directory itself, which is open.
    fn own_flags(&self) -> Result<InodeFlags, ImportError> {
        Ok(InodeFlags::default())
    }
}

/// An open file of a source, read once from its start to its end.
pub trait SourceFile: Send {
    /// Reads the next bytes; 0 at the end. Fills the buffer as far as it can.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError>;

    /// At the current position `at`: where the next data begins and where it ends (the next hole or the end of the
    /// file). `None`: no data from here to the end. Moves the position to where that data begins, or to the end.
    fn next_data(&mut self, at: u64) -> Result<Option<(u64, u64)>, ImportError>;

    /// Metadata and the stamp's ctime as they are now, to notice a change while it was read.
    fn now(&self) -> Result<(Metadata, i64), ImportError>;

    /// Inode flags and project; none set for a source or file system without them.
    fn flags(&self) -> Result<InodeFlags, ImportError> {
        Ok(InodeFlags::default())
    }

    /// Whether what is read is made at that moment, as in `/proc`: then its size and times say nothing about it.
    fn is_made_up(&self) -> bool {
        false
    }
}
