//! The port to where data is restored to. The restore makes directories first, fills files in whatever order the
//! packfiles give their contents, and sets the directories' attributes last.
//!
//! Calls block: they are made on the restore's own threads. Paths are relative to the destination, `/`-separated
//! bytes whose parts were validated (no empty part, `.`, `..` or NUL); the empty path is the destination itself.
//! An implementation never leaves the destination, whatever symlinks it finds there.

use std::fmt;

use crate::meta::{InodeFlags, Metadata, Xattr};
use crate::tree::Entry;

/// What to do with something that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Replace it.
    Always,
    /// Replace it when the recorded modification time is later.
    IfNewer,
    /// Keep it.
    Never,
    /// Fail for that entry, and go on.
    Error,
}

/// A failure to restore one thing: the cause only, the path stands beside it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExportError {
    message: String,
    fatal: bool,
}

impl ExportError {
    /// A failure of one entry; the restore goes on with the others.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fatal: false }
    }

    /// From an operating-system error; `what` is the operation. A full disk is fatal: going on is no use.
    pub fn io(what: &str, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let fatal = matches!(e.kind(), K::StorageFull | K::QuotaExceeded | K::ReadOnlyFilesystem);
        Self { message: format!("{what}: {e}"), fatal }
    }

    /// Whether the restore should stop.
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }
}

/// Whether an entry was made or left as it was found under the [`Overwrite`] policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made or replaced.
    Yes,
    /// It was there and stays.
    Kept,
}

/// All attributes of an entry to set on what was restored.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Mode, owner, time.
    pub meta: &'a Metadata,
    /// Extended attributes and ACLs.
    pub xattrs: &'a [Xattr],
    /// Inode flags and project.
    pub flags: InodeFlags,
}

impl<'a> From<&'a Entry> for Attributes<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self { meta: &entry.meta, xattrs: &entry.xattrs, flags: entry.flags }
    }
}

/// A destination, opened for one restore.
///
/// Every method that sets attributes returns what could not be set as a list of texts (owners without root, an
/// attribute that the file system does not take): they are reported, and do not fail the entry.
pub trait Exporter: Send + Sync + fmt::Debug {
    /// Where it is, for people.
    fn location(&self) -> String;

    /// Makes a directory, or takes the one that is there, writable for us until [`Exporter::finish_directory`].
    /// After `Kept` it is restored into all the same, but its attributes stay: it is not finished.
    /// Of the flags it takes at once what only an empty directory takes.
    fn make_directory(&self, path: &[u8], flags: InodeFlags) -> Result<Made, ExportError>;

    /// Begins a file under a temporary name beside its own; what it is to be like in the end is a hint, but for its
    /// size, and for flags that only an empty file takes. `None`: there is one, and it stays.
    /// Bytes that are never written read as zeros, as holes where the destination can.
    fn create_file(
        &self,
        path: &[u8],
        attributes: Attributes<'_>,
    ) -> Result<Option<Box<dyn ExportFile>>, ExportError>;

    /// Makes a symlink, FIFO, socket or device node with its attributes; `target` is a symlink's.
    fn make_special(
        &self,
        path: &[u8],
        target: Option<&[u8]>,
        attributes: Attributes<'_>,
    ) -> Result<(Made, Vec<String>), ExportError>;

    /// Makes `path` another name of `existing`, which was restored before.
    fn make_link(&self, path: &[u8], existing: &[u8]) -> Result<Made, ExportError>;

    /// Makes `path` another name of `existing` if both are there as files, or symlinks, with the same contents and
    /// attributes; otherwise leaves both alone.
    fn join(&self, path: &[u8], existing: &[u8]) -> Result<(), ExportError>;

    /// Sets a directory's attributes, once everything in it stands.
    fn finish_directory(&self, path: &[u8], attributes: Attributes<'_>) -> Result<Vec<String>, ExportError>;

    /// Makes all that was restored durable, and reports what the destination failed to write until now.
    fn finish(&self) -> Result<(), ExportError>;
}

/// A file being restored. Dropping it without `finish` removes the temporary file.
pub trait ExportFile: Send + Sync {
    /// Writes bytes at an offset, from any thread, in any order.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), ExportError>;

    /// Sets the attributes and gives the file its name. Returns what could not be set.
    fn finish(self: Box<Self>, attributes: Attributes<'_>) -> Result<Vec<String>, ExportError>;
}
