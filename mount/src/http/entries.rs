//! The entries of a directory, one after the other, without holding more than a page of them.

use std::sync::Arc;

use bytes::Bytes;
use plakar_engine::meta::Kind;

use super::path::Held;
use crate::error::FsError;
use crate::fs::{Attr, SnapshotFs, Stretch};

/// Cookie behind `.` and `..`, which are not listed.
const FIRST: u64 = 2;

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) attr: Attr,
    /// Where it leads, if it is a symlink.
    pub(super) target: Option<Bytes>,
}

/// A directory that is being listed.
#[derive(Debug)]
pub(super) struct Entries {
    fs: Arc<SnapshotFs>,
    directory: Arc<Held>,
    after: u64,
    batch: Stretch,
    /// Place in the batch.
    at: usize,
}

impl Entries {
    /// Begins with the first entry, which is there when this returns, if there is one.
    pub(super) async fn open(fs: &Arc<SnapshotFs>, directory: Arc<Held>) -> Result<Self, FsError> {
        let batch = fs.list(directory.attr.ino, FIRST).await?;
        Ok(Self { fs: fs.clone(), directory, after: FIRST, batch, at: 0 })
    }

    /// The next entry that `wanted` says yes to, by its kind; `None` at the end.
    pub(super) async fn next(&mut self, wanted: impl Fn(Kind) -> bool) -> Result<Option<Entry>, FsError> {
        loop {
            while self.at < self.batch.len() {
                let place = self.at;
                self.at += 1;
                let Some(item) = self.fs.hold(&self.batch, place) else { continue };
                let held = Held::new(&self.fs, item.attr);
                self.after = self.after.max(item.cookie);
                if !wanted(item.attr.kind) {
                    continue;
                }
                let mut entry = Entry { name: item.name.to_vec(), attr: item.attr, target: None };
                if entry.attr.kind == Kind::Symlink {
                    entry.target = Some(self.fs.read_link(held.attr.ino).await?);
                }
                return Ok(Some(entry));
            }
            if self.batch.is_empty() {
                return Ok(None);
            }
            self.turn().await?;
        }
    }

    async fn turn(&mut self) -> Result<(), FsError> {
        let batch = self.fs.list(self.directory.attr.ino, self.after).await?;
        // Nothing but entries that are not shown would come again and again.
        if !batch.is_empty() && (0..batch.len()).all(|i| self.fs.item(&batch, i).is_none()) {
            self.after += batch.len() as u64;
        }
        (self.batch, self.at) = (batch, 0);
        Ok(())
    }
}
