//! How progress and faults that do not end an operation leave the library.

use crate::id::ObjectId;

/// What happens during an operation. Paths are bytes as recorded.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Entries from here on are those of a snapshot among several.
    Snapshot {
        /// Its id.
        id: ObjectId,
    },
    /// An entry was met and its data handled (backed up, restored or checked).
    Entry {
        /// Its absolute path.
        path: &'a [u8],
        /// Its size in bytes.
        bytes: u64,
    },
    /// Something went wrong with one path; the operation goes on.
    Failed {
        /// Its absolute path.
        path: &'a [u8],
        /// Why.
        reason: &'a str,
    },
    /// An entry is left out; told in dry runs only.
    LeftOut {
        /// Its absolute path.
        path: &'a [u8],
        /// What leaves it out.
        by: &'a str,
    },
    /// Something worth telling that is no failure.
    Notice {
        /// What.
        text: &'a str,
    },
    /// How much there is to do in all, once known.
    Total {
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Bytes went to or came from the store, or were worked on.
    Progress {
        /// Bytes since the last such event.
        bytes: u64,
    },
}

/// Takes events, from any thread, quickly.
pub trait Monitor: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _event: Event<'_>) {}
}
