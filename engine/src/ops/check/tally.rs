//! What lies below each directory that a walk goes through, added up and compared with what its entry says.
//!
//! A directory that was counted is not walked again: a few bytes remember what was found in it, 25 or so for each
//! directory of all snapshots.

use std::collections::HashMap;

use crate::id::BlobId;
use crate::tree::{Entry, Summary};
use crate::wire::Put;

/// What was found in directories, by the first bytes of their nodes' ids.
pub(super) type Found = HashMap<u64, u32>;

/// The directories that are open.
#[derive(Default)]
pub(super) struct Tally(Vec<Open>);

struct Open {
    node: BlobId,
    stated: Summary,
    found: Summary,
    /// What of it was counted.
    how: How,
}

#[derive(PartialEq, Eq)]
enum How {
    All,
    /// It was counted before.
    Before,
    /// Something in it cannot be read.
    InPart,
}

impl Tally {
    /// A directory that is entered.
    pub(super) fn enter(&mut self, entry: &Entry) {
        self.add(entry);
        if let Some((node, stated)) = entry.directory() {
            self.0.push(Open { node, stated: *stated, found: Summary::default(), how: How::All });
        }
    }

    /// An entry of the directory that was entered last.
    pub(super) fn add(&mut self, entry: &Entry) {
        if let Some(open) = self.0.last_mut() {
            open.found.add(entry);
        }
    }

    /// What is in the directory that was entered last is passed over.
    pub(super) fn pass_over(&mut self) {
        self.set(How::Before);
    }

    /// Something in the directory that was entered last cannot be read.
    pub(super) fn lose(&mut self) {
        self.set(How::InPart);
    }

    fn set(&mut self, how: How) {
        if let Some(open) = self.0.last_mut() {
            open.how = how;
        }
    }

    /// The node of the directory that was entered last.
    pub(super) fn node(&self) -> Option<BlobId> {
        self.0.last().map(|open| open.node)
    }

    /// Leaves it; says how what lies below differs from what its entry says.
    pub(super) fn leave(&mut self, known: &mut Found) -> Option<String> {
        let Open { node, stated, found, how } = self.0.pop()?;
        match how {
            How::InPart => None,
            How::All => {
                known.insert(first(&node), digest(&found));
                difference(&stated, &found)
            }
            How::Before => {
                let differs = known.get(&first(&node)).is_some_and(|found| *found != digest(&stated));
                differs.then(|| MISCOUNTED.to_owned())
            }
        }
    }
}

const MISCOUNTED: &str = "its entry miscounts what lies below it";

fn difference(stated: &Summary, found: &Summary) -> Option<String> {
    let counts = |s: &Summary| {
        [
            ("files", s.files),
            ("directories", s.directories),
            ("symlinks", s.symlinks),
            ("others", s.others),
            ("bytes", s.bytes),
            ("errors", s.errors),
            ("extended attributes", s.xattrs.into()),
        ]
    };
    let mut pairs = counts(stated).into_iter().zip(counts(found));
    let ((what, stated), (_, found)) = pairs.find(|(a, b)| a != b)?;
    Some(format!("{MISCOUNTED}: {what} {stated} where {found} are found"))
}

fn first(node: &BlobId) -> u64 {
    node.0.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn digest(summary: &Summary) -> u32 {
    let mut bytes = Vec::with_capacity(64);
    for n in
        [summary.files, summary.directories, summary.symlinks, summary.others, summary.bytes, summary.errors]
    {
        bytes.put_u64(n);
    }
    bytes.push(summary.xattrs.into());
    blake3::hash(&bytes).as_bytes().first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}
