//! What is in a directory beside what was in it: two lists in the order of names become one.

use super::assemble::join;
use super::exclude::Excludes;
use super::previous::{Previous, PreviousDirectory};
use crate::id::BlobId;
use crate::importer::{ImportError, Listed, SourceEntry, Stamp};
use crate::meta::Kind;
use crate::tree::{Entry, is_valid_name};

/// One name.
pub(super) enum Found {
    /// As it was: its entry is taken over.
    Unchanged(Stamp, Entry),
    /// New, or not as it was; no directory.
    Changed(SourceEntry),
    /// A directory.
    Directory {
        now: SourceEntry,
        /// Its entry if it was one before.
        was: Option<Entry>,
        /// Its own attributes are those of that entry.
        untouched: bool,
    },
    /// It cannot be looked at.
    Failed(Vec<u8>, ImportError),
    /// The format has no room for its name.
    Unstorable(Vec<u8>),
    /// It was there, and is not any more, or is something else now.
    Gone(Entry),
}

impl Found {
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Unchanged(_, entry) | Self::Gone(entry) => &entry.name,
            Self::Changed(now) | Self::Directory { now, .. } => &now.name,
            Self::Failed(name, _) | Self::Unstorable(name) => name,
        }
    }
}

/// Compares a listing with what is known of its directory, leaving out what is excluded. `known` tells whether a blob
/// is in the store.
pub(super) fn compare(
    path: &[u8],
    listed: Vec<Listed>,
    before: Option<PreviousDirectory>,
    excludes: &Excludes,
    previous: &Previous,
    known: impl Fn(&BlobId) -> bool,
) -> Vec<Found> {
    let mut then = before.map(|b| b.entries).unwrap_or_default().into_iter().peekable();
    let mut found = Vec::with_capacity(listed.len());
    // The path of each entry in turn.
    let mut at = join(path, b"");
    let above = at.len();
    for (name, now) in listed {
        at.truncate(above);
        at.extend_from_slice(&name);
        if !is_valid_name(&name) {
            found.push(Found::Unstorable(name));
            continue;
        }
        let is_directory = matches!(&now, Ok(n) if n.meta.kind == Kind::Directory);
        if excludes.excludes(&at, is_directory) {
            continue;
        }
        while let Some((_, gone)) = then.next_if(|(_, e)| e.name < name) {
            found.push(Found::Gone(gone));
        }
        let was = then.next_if(|(_, e)| e.name == name);
        let now = match now {
            Ok(now) => now,
            Err(e) => {
                found.push(Found::Failed(name, e));
                continue;
            }
        };
        if is_directory {
            let was = was.filter(|(_, e)| e.directory().is_some());
            let untouched = was.as_ref().is_some_and(|(stamp, e)| previous.is_untouched(*stamp, e, &now));
            found.push(Found::Directory { now, was: was.map(|(_, e)| e), untouched });
            continue;
        }
        match was {
            Some((stamp, entry)) if previous.is_unchanged(stamp, &entry, &now, &known) => {
                found.push(Found::Unchanged(now.stamp, entry));
                continue;
            }
            Some((_, entry)) => found.push(Found::Gone(entry)),
            None => {}
        }
        found.push(Found::Changed(now));
    }
    found.extend(then.map(|(_, gone)| Found::Gone(gone)));
    found
}
