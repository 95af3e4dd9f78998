//! What can go wrong, in the words of the domain.
//!
//! Messages are lower case without a full stop: what failed and on which thing; the cause is in `source()`, and is
//! never repeated in the message. Advice to the user belongs to the command line, which picks it by [`ErrorKind`].

use crate::storage::{ObjectName, StoreError, StoreErrorKind};
use crate::wire::WireError;

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is: decides the exit code, the hint, the errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no store at that place, or only half of one.
    NoStore,
    /// The secret opens no key slot.
    WrongSecret,
    /// A secret is needed and none was given.
    SecretNeeded,
    /// No such snapshot or path.
    NotFound,
    /// A prefix that fits several snapshots.
    Ambiguous,
    /// Stored bytes are damaged or missing.
    Damaged,
    /// Written by a newer program.
    Newer,
    /// The store failed or refused.
    Store,
    /// Local files failed.
    Io,
    /// The user stopped it.
    Cancelled,
    /// The arguments make no sense together.
    Usage,
    /// A fault of this program.
    Bug,
}

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing is there.
    #[error("there is no store at {location}")]
    NoStore {
        /// The place.
        location: String,
    },
    /// Something is there that is not a whole store.
    #[error("{location} is not a store: {reason}")]
    NotAStore {
        /// The place.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A sealed store, and no secret.
    #[error("the store at {location} is encrypted and no passphrase was given")]
    SecretNeeded {
        /// The place.
        location: String,
    },
    /// A secret that opens no slot.
    #[error("wrong passphrase or key for the store at {location}")]
    WrongSecret {
        /// The place.
        location: String,
    },
    /// An object that does not follow the format.
    #[error("{object} is damaged")]
    DamagedObject {
        /// Which.
        object: ObjectName,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A frame that does not open or a blob that is not what it should be.
    #[error("{what} is damaged ({place})")]
    DamagedBlob {
        /// The blob, for people.
        what: String,
        /// Packfile and offset.
        place: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object of which something that is needed cannot be read.
    #[error("{object} cannot be read: {reason}")]
    Unreadable {
        /// Which.
        object: String,
        /// Why.
        reason: String,
    },
    /// A blob that no listed state knows.
    #[error("{what} is missing: no state of the store knows it")]
    MissingBlob {
        /// The blob, for people.
        what: String,
    },
    /// A file of the local index whose checksum is wrong. It is thrown away and rebuilt.
    #[error("the local index {path} is damaged")]
    DamagedIndex {
        /// The file.
        path: String,
    },
    /// An object from the future.
    #[error("{object} was written by a newer program")]
    Newer {
        /// Which.
        object: String,
    },
    /// No snapshot fits.
    #[error("no snapshot {what}")]
    NoSnapshot {
        /// "has the prefix …", "is in the store", "matches".
        what: String,
    },
    /// Several snapshots fit.
    #[error("{prefix} fits {} snapshots: {}", matches.len(), matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Enough of each id to tell them apart.
        matches: Vec<String>,
    },
    /// No such path in a snapshot.
    #[error("{path}: no such file or directory in snapshot {snapshot}")]
    NoPath {
        /// The path.
        path: String,
        /// The snapshot's short id.
        snapshot: String,
    },
    /// A path that is not what the operation needs.
    #[error("{path}: {reason}")]
    WrongPath {
        /// The path.
        path: String,
        /// What it is or is not.
        reason: &'static str,
    },
    /// The source cannot be read at all.
    #[error("cannot read the source {what}")]
    Import {
        /// Which.
        what: String,
        /// Why.
        source: crate::importer::ImportError,
    },
    /// The destination cannot be written at all.
    #[error("cannot restore to {what}")]
    Export {
        /// Which.
        what: String,
        /// Why.
        source: crate::exporter::ExportError,
    },
    /// Local files.
    #[error("cannot {operation} {path}")]
    Io {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The local database.
    #[error("the local cache failed")]
    Cache(#[from] rusqlite::Error),
    /// A run took so long that it cannot be relied on.
    #[error(
        "the run took longer than half the store's grace period, and meanwhile {}: run it again, what was uploaded is found",
        match missing { 0 => "time went on".to_owned(), n => format!("what {n} paths need was removed") }
    )]
    Late {
        /// Paths that need what was removed meanwhile.
        missing: u64,
    },
    /// Somebody has the store for himself, or is at work where nobody else may be.
    #[error("the store is in use: {by}")]
    InUse {
        /// Who does what, and where.
        by: String,
    },
    /// Nothing may be deleted as long as it is not known what is needed.
    #[error("nothing is deleted while {what}")]
    Unsafe {
        /// What stands in the way.
        what: String,
    },
    /// The user stopped it.
    #[error("interrupted")]
    Cancelled,
    /// Arguments that make no sense.
    #[error("{0}")]
    Usage(String),
    /// A fault of this program.
    #[error("internal error: {0}; please report it")]
    Bug(&'static str),
    /// One failure that several waited for.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Self>),
}

impl Error {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(e) if e.kind() == StoreErrorKind::Unusable => ErrorKind::NoStore,
            // An object that others name, a range that was recorded, bytes that the disk does not give: stores say
            // `Unavailable` when all is gone.
            Self::Store(e)
                if matches!(
                    e.kind(),
                    StoreErrorKind::NotFound | StoreErrorKind::OutOfRange | StoreErrorKind::Unreadable
                ) =>
            {
                ErrorKind::Damaged
            }
            Self::Store(_) | Self::Late { .. } | Self::InUse { .. } => ErrorKind::Store,
            Self::NoStore { .. } | Self::NotAStore { .. } => ErrorKind::NoStore,
            Self::SecretNeeded { .. } => ErrorKind::SecretNeeded,
            Self::WrongSecret { .. } => ErrorKind::WrongSecret,
            Self::DamagedObject { .. }
            | Self::DamagedBlob { .. }
            | Self::Unreadable { .. }
            | Self::MissingBlob { .. }
            | Self::Unsafe { .. }
            | Self::DamagedIndex { .. } => ErrorKind::Damaged,
            Self::Newer { .. } => ErrorKind::Newer,
            Self::NoSnapshot { .. } | Self::NoPath { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } => ErrorKind::Ambiguous,
            Self::Import { .. } | Self::Export { .. } | Self::Io { .. } | Self::Cache(_) => ErrorKind::Io,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::WrongPath { .. } | Self::Usage(_) => ErrorKind::Usage,
            Self::Bug(_) => ErrorKind::Bug,
            Self::Shared(e) => e.kind(),
        }
    }

    /// Whether the store did not answer in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Store(e) => e.kind() == StoreErrorKind::TimedOut,
            Self::Shared(e) => e.is_timeout(),
            _ => false,
        }
    }

    /// An object that failed to decode: newer or damaged.
    pub(crate) fn object(object: ObjectName, e: WireError) -> Self {
        match e {
            WireError::Newer(_) => Self::Newer { object: object.to_string() },
            e => Self::DamagedObject { object, source: e.into() },
        }
    }

    pub(crate) fn damaged(
        object: ObjectName,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::DamagedObject { object, source: source.into() }
    }

    pub(crate) fn io(operation: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.display().to_string(), source }
    }
}

/// An error and its causes in one line.
pub fn report(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let cause = e.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = e.source();
    }
    text
}

/// Whether an error means that stored bytes are damaged or gone, as against a store that cannot be reached.
pub fn is_damage(e: &Error) -> bool {
    e.kind() == ErrorKind::Damaged
}
