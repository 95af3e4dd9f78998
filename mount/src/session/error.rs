//! Why a mount cannot begin, or end.

use std::io;
use std::path::PathBuf;

use crate::mounts::Holder;

/// A failure of mounting or unmounting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The store failed, or has no such snapshot or path.
    #[error(transparent)]
    Engine(#[from] plakar_engine::error::Error),
    /// The mountpoint is not a directory that can be used.
    #[error("cannot mount on {}", mountpoint.display())]
    Mountpoint {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is a mount of this program already.
    #[error("{} is mounted already", mountpoint.display())]
    AlreadyMounted {
        /// Where.
        mountpoint: PathBuf,
    },
    /// Mountpoint and store, or its cache, lie in one another.
    #[error("cannot mount on {}: {} would be hidden by its own mount", mountpoint.display(), place.display())]
    Overlap {
        /// Where.
        mountpoint: PathBuf,
        /// The store or cache.
        place: PathBuf,
    },
    /// The system refuses to mount.
    #[error("cannot mount on {}", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody uses the mount.
    #[error("{} is in use{}", mountpoint.display(), list(holders))]
    Busy {
        /// Where.
        mountpoint: PathBuf,
        /// Who, as far as this user may see.
        holders: Vec<Holder>,
    },
    /// Something else was mounted over it.
    #[error("something else is mounted over {}", mountpoint.display())]
    Covered {
        /// Where.
        mountpoint: PathBuf,
    },
    /// There is no mount of this program.
    #[error("no plakar mount at {}", mountpoint.display())]
    NotMounted {
        /// Where.
        mountpoint: PathBuf,
    },
    /// The system refuses to unmount.
    #[error("cannot unmount {}", mountpoint.display())]
    Unmount {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was unmounted and does not end.
    #[error("{} is unmounted but still used by someone", mountpoint.display())]
    Lingers {
        /// Where it was.
        mountpoint: PathBuf,
    },
    /// The connection to the kernel broke.
    #[error("the mount at {} has failed: {reason}", mountpoint.display())]
    Connection {
        /// Where.
        mountpoint: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals")]
    Signals {
        /// Why.
        source: io::Error,
    },
}

fn list(holders: &[Holder]) -> String {
    holders.iter().map(|h| format!("\n  {h}")).collect()
}
