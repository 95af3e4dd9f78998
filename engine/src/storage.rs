//! The port to where a store's bytes live. Connectors implement it; the repository uses nothing else.
//!
//! A store keeps immutable objects in [`Area`]s under random ids. Implementations know nothing of what is in them.

pub mod memory;
pub mod retry;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::ObjectId;

/// The kinds of place in a store; `docs/FORMAT.md` §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The one object `CONFIG`; its id is all zeros.
    Config,
    /// Key slots.
    Keys,
    /// Packfiles with file contents.
    Data,
    /// Packfiles with metadata.
    Meta,
    /// States.
    States,
    /// Snapshots.
    Snapshots,
    /// Tombstones and decisions of maintenance.
    Removals,
    /// Tags, pins, descriptions.
    Notes,
    /// Runs in progress.
    Leases,
}

impl Area {
    /// Every area, in the order of the format document.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Keys,
        Self::Data,
        Self::Meta,
        Self::States,
        Self::Snapshots,
        Self::Removals,
        Self::Notes,
        Self::Leases,
    ];

    /// The folder's name, `CONFIG` for the one object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "CONFIG",
            Self::Keys => "keys",
            Self::Data => "data",
            Self::Meta => "meta",
            Self::States => "states",
            Self::Snapshots => "snapshots",
            Self::Removals => "removals",
            Self::Notes => "notes",
            Self::Leases => "leases",
        }
    }

    /// Whether ids are spread over 256 folders named by their first byte.
    pub fn is_sharded(self) -> bool {
        matches!(self, Self::Data | Self::Meta)
    }
}

/// An object's name: where it stands and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The area.
    pub area: Area,
    /// The id; all zeros for `CONFIG`.
    pub id: ObjectId,
}

impl ObjectName {
    /// The one object without an id.
    pub const CONFIG: Self = Self { area: Area::Config, id: ObjectId([0; 32]) };

    /// Names an object.
    pub fn new(area: Area, id: ObjectId) -> Self {
        Self { area, id }
    }

    /// The relative path with `/` between its parts, as in `docs/FORMAT.md` §2.
    pub fn path(&self) -> String {
        match self.area {
            Area::Config => "CONFIG".into(),
            area if area.is_sharded() => {
                format!("{}/{:02x}/{}", area.name(), self.id.0[0], self.id)
            }
            area => format!("{}/{}", area.name(), self.id),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// What a store knows about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: ObjectId,
    /// Its length in bytes.
    pub len: u64,
    /// When the store took it, by the store's own clock, in ns since 1970.
    pub modified_ns: i64,
}

/// What kind of failure a [`StoreError`] is; decides about retries, exit codes and hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object, or the whole place, does not exist.
    NotFound,
    /// Something is there already.
    AlreadyExists,
    /// The credentials do not allow it.
    PermissionDenied,
    /// There is no space left, or a quota is reached.
    NoSpace,
    /// The object ends before the range that was asked for does.
    OutOfRange,
    /// The object is there and its bytes cannot be had: a bad sector, something else in its place, no right to read it.
    /// It concerns this object alone. Worth another try, since a network file system or a cable may have had a bad moment.
    Unreadable,
    /// The store did not answer in time; worth another try.
    TimedOut,
    /// The store cannot be reached, or has gone as a whole; worth another try.
    Unavailable,
    /// The place is not usable as a store (a file in place of a directory, for example).
    Unusable,
    /// Anything else.
    Other,
}

/// A failed operation on a store: what was tried, on which object, why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}")]
pub struct StoreError {
    kind: StoreErrorKind,
    operation: &'static str,
    subject: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// Describes a failure: `operation` is a verb ("read", "write", "list"), `subject` names the object or place.
    pub fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        subject: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, subject: subject.to_string(), source: Some(source.into()) }
    }

    /// From an operating-system error, with the kind that follows from it.
    pub fn io(operation: &'static str, subject: impl fmt::Display, e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match e.kind() {
            K::NotFound => StoreErrorKind::NotFound,
            K::AlreadyExists | K::DirectoryNotEmpty => StoreErrorKind::AlreadyExists,
            K::PermissionDenied | K::ReadOnlyFilesystem => StoreErrorKind::PermissionDenied,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::NoSpace,
            K::UnexpectedEof => StoreErrorKind::OutOfRange,
            K::NotADirectory | K::IsADirectory => StoreErrorKind::Unusable,
            K::TimedOut => StoreErrorKind::TimedOut,
            K::Interrupted | K::ConnectionReset | K::BrokenPipe => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Other,
        };
        Self::new(kind, operation, subject, e)
    }

    /// The same failure as one of another kind: where a store knows better what it means.
    pub fn with_kind(self, kind: StoreErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The kind.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            StoreErrorKind::TimedOut | StoreErrorKind::Unavailable | StoreErrorKind::Unreadable
        )
    }
}

/// Where a store's objects live.
///
/// Implementers guarantee: an object appears whole or not at all, under its name only once [`PutObject::finish`] has
/// been acknowledged as durable; a `get` after that sees it; `list` shows every object put before the listing began
/// (stores whose listings lag document it). Callers may run any number of calls at once, and may drop a future
/// at any time without harm.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Where it is, as the user would write it, without secrets.
    fn location(&self) -> String;

    /// The local directory that holds it, if there is one: a mount refuses to cover it.
    fn local_path(&self) -> Option<&Path>;

    /// What whoever has opened it should know: that it is not whole, and how much of it can be used.
    fn notice(&self) -> Option<String> {
        None
    }

    /// What is damaged of the place itself, beside the objects in it, which are checked by who knows them.
    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Makes the place ready for a new store.
    ///
    /// Fails with `AlreadyExists` when it holds anything, with `Unusable` when it cannot be one.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// Every object of an area, in no order. Temporary and foreign files are left out. An area that does not exist is
    /// empty, but a place that does not exist is `NotFound`, and one that is a file is `Unusable`.
    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError>;

    /// The bytes of an object, or of a range of it: exactly `end - start` bytes, `OutOfRange` when it is shorter.
    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;

    /// Length and time of one object.
    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError>;

    /// Begins to write an object. Nothing is visible before `finish`.
    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError>;

    /// Removes an object. Removing what does not exist succeeds.
    async fn delete(&self, name: ObjectName) -> Result<(), StoreError>;

    /// Removes what writers left behind that were killed, and says of how many things it cannot tell yet. It is `now_ns`
    /// by the store's clock.
    async fn remove_unfinished(&self, _now_ns: i64) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// An object being written. Dropping it without `finish` leaves nothing visible behind, at worst a temporary file.
#[async_trait]
pub trait PutObject: Send {
    /// Appends bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes the object durable and visible, and says how the store lists it. Fails with `AlreadyExists`, where the
    /// store can tell, rather than replace an object.
    async fn finish(self: Box<Self>) -> Result<Listed, StoreError>;

    /// Removes what was written so far.
    async fn abort(self: Box<Self>);
}

/// Writes a small object in one call.
pub async fn put_bytes(store: &dyn Store, name: ObjectName, bytes: Bytes) -> Result<Listed, StoreError> {
    let mut put = store.put(name).await?;
    if let Err(e) = put.write(bytes).await {
        put.abort().await;
        return Err(e);
    }
    put.finish().await
}
