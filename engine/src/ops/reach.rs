//! What metadata leads to: blobs of one level are read in the order in which they are stored, each once, whoever shares them.

use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::gather::{self, News, Wanted};
use crate::cancel::Cancel;
use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::repository::catalog::Catalog;
use crate::repository::reader::Origin;
use crate::repository::{Index, Marks, Repository, Row};
use crate::snapshot::Snapshot;
use crate::tree::references;
use crate::vfs::damaged_tree;

/// A blob that is named, and where the index has it, if it does.
pub(super) type Named = (Class, BlobId, Option<Row>);

/// A store as it is read here: the same index and catalogue throughout.
#[derive(Clone)]
pub(super) struct Reach {
    pub(super) repository: Arc<Repository>,
    pub(super) index: Arc<Index>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) cancel: Cancel,
}

impl Reach {
    /// The row of a blob of metadata.
    ///
    /// # Errors
    /// `MissingBlob`.
    pub(super) fn row(&self, id: &BlobId) -> Result<Row> {
        self.index.row(id, &self.catalog.removals)?.ok_or_else(|| missing(id))
    }

    /// A store as it is known now.
    pub(super) async fn now(repository: &Arc<Repository>, cancel: &Cancel) -> Result<Self> {
        let (index, catalog) = (repository.index().await?, repository.catalog().await?);
        Ok(Self { repository: repository.clone(), index, catalog, cancel: cancel.clone() })
    }

    /// How many blobs that a snapshot leads to have no place that may be relied on: they stand nowhere, or only in packfiles that
    /// are condemned or gone. If some have none, those that only they lead to are not counted.
    ///
    /// # Errors
    /// Metadata cannot be read.
    pub(super) async fn unsound(&self, snapshot: &Snapshot) -> Result<u64> {
        let (mut seen, mut unsound) = (self.index.marks(), 0);
        let meet = |(_, id, row): Named| {
            if row.is_some_and(|row| !seen.mark(row)) {
                return Ok(false);
            }
            let is_sound = row.is_some() && self.index.is_known(&id, &self.catalog.removals);
            unsound += u64::from(!is_sound);
            // What is found missing is enough to know.
            Ok(is_sound && unsound == 0)
        };
        self.follow(snapshot.tops(), meet).await?;
        Ok(unsound)
    }

    /// Goes from some metadata to all that it leads to, level by level. `meet` is told each time that a blob is named, and
    /// says of metadata whether to go into it.
    ///
    /// # Errors
    /// Metadata cannot be read; those of `meet`.
    pub(super) async fn follow(
        &self,
        tops: impl Iterator<Item = BlobId>,
        mut meet: impl FnMut(Named) -> Result<bool>,
    ) -> Result<()> {
        let mut into = |found: Vec<Named>, level: &mut Marks| {
            for named in found {
                if meet(named)?
                    && let (Class::Meta, _, Some(row)) = named
                {
                    level.mark(row);
                }
            }
            Ok(())
        };
        let tops = tops.map(|id| Ok((Class::Meta, id, self.index.row(&id, &self.catalog.removals)?)));
        let mut level = self.index.marks();
        into(tops.collect::<Result<_>>()?, &mut level)?;
        while !level.is_empty() {
            let mut next = self.index.marks();
            self.led_to(&level, |found| into(found, &mut next)).await?;
            level = next;
        }
        Ok(())
    }

    /// Reads marked metadata, and tells all that it names.
    ///
    /// # Errors
    /// Some of it cannot be read; those of `tell`.
    pub(super) async fn led_to(
        &self,
        level: &Marks,
        mut tell: impl FnMut(Vec<Named>) -> Result<()>,
    ) -> Result<()> {
        let wanted = self.index.in_stored_order(level).map(|row| {
            let (id, located) = self.repository.locate_row(&self.index, row?)?;
            Ok(Wanted { id, located, uses: () })
        });
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let mut found = stream::iter(gather::batches(wanted))
            .map(|batch| async {
                self.cancel.check()?;
                self.batch(batch?).await
            })
            .buffer_unordered(parallel);
        while let Some(found) = found.next().await {
            tell(found?)?;
        }
        Ok(())
    }

    async fn batch(&self, batch: Vec<Wanted<()>>) -> Result<Vec<Named>> {
        let reach = self.clone();
        let found = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let out = found.clone();
        let mut bytes = Vec::new();
        let take = move |w: &Wanted<()>, news: News<'_>| match news {
            News::Bytes(at, part) => {
                bytes.truncate(at as usize);
                bytes.extend_from_slice(part);
                Ok(())
            }
            News::Failed(e) => Err(e.into()),
            News::Verified => {
                let mut out = out.lock();
                let mut failure = None;
                let each = |class, id: BlobId| match reach.index.row(&id, &reach.catalog.removals) {
                    Ok(row) => out.push((class, id, row)),
                    Err(e) => failure = Some(e),
                };
                references(&bytes, each).map_err(|e| damaged_tree("metadata", w.id, e))?;
                failure.map_or(Ok(()), Err)
            }
        };
        gather::read(&self.repository, Origin::Anywhere, batch, take).await?;
        let found = std::mem::take(&mut *found.lock());
        Ok(found)
    }
}

/// Why metadata cannot be had.
pub(super) fn missing(id: &BlobId) -> Error {
    Error::MissingBlob { what: format!("metadata {}", id.short()) }
}
