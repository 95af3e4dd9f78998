//! What is live: every blob that a snapshot leads to, as marks on the rows of the index.
//!
//! Metadata is read level by level from the roots down, each level in the order in which it is stored and each blob
//! once, however many snapshots share it. In memory are three bits for each row, and one level of one segment.

use std::sync::Arc;

use futures::stream::{self, StreamExt};

use crate::cancel::Cancel;
use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::ops::gather::{self, News, Wanted};
use crate::repository::catalog::Catalog;
use crate::repository::reader::Origin;
use crate::repository::{Index, Marks, Repository, Row};
use crate::snapshot::Snapshot;
use crate::tree::references;
use crate::vfs::damaged_tree;

/// What is live.
pub(super) struct Live {
    /// Rows of live blobs: of each blob one, in a packfile that is not condemned if there is one.
    pub(super) marks: Marks,
    /// Data that is needed and that no state knows.
    pub(super) missing: u64,
}

impl Live {
    /// Nothing.
    pub(super) fn none(index: &Index) -> Self {
        Self { marks: index.marks(), missing: 0 }
    }

    /// Adds what snapshots lead to.
    ///
    /// # Errors
    /// Some of their metadata cannot be read or is missing: then nobody can tell what is live.
    pub(super) async fn add(
        &mut self,
        repository: &Arc<Repository>,
        index: &Arc<Index>,
        catalog: &Arc<Catalog>,
        snapshots: &[Arc<Snapshot>],
        cancel: &Cancel,
    ) -> Result<()> {
        let mut level = index.marks();
        for s in snapshots {
            let node = s.root.directory().map(|(node, _)| node);
            for id in node.into_iter().chain(s.owners) {
                let row = index.row(&id, &catalog.removals)?.ok_or_else(|| missing(&id))?;
                if self.marks.mark(row) {
                    level.mark(row);
                }
            }
        }
        while !level.is_empty() {
            let wanted = index.in_stored_order(&level).map(|row| {
                let (id, located) = repository.locate_row(index, row?)?;
                Ok(Wanted { id, located, uses: () })
            });
            let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 1;
            let mut found = stream::iter(gather::batches(wanted))
                .map(|batch| async {
                    cancel.check()?;
                    led_to(repository, index, catalog, batch?).await
                })
                .buffer_unordered(parallel);
            let mut next = index.marks();
            while let Some(found) = found.next().await {
                let Found { rows, missing } = found?;
                self.missing += missing;
                for (class, row) in rows {
                    if self.marks.mark(row) && class == Class::Meta {
                        next.mark(row);
                    }
                }
            }
            drop(found);
            level = next;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Found {
    rows: Vec<(Class, Row)>,
    missing: u64,
}

/// Reads some metadata blobs, and finds the rows of what they lead to.
async fn led_to(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    catalog: &Arc<Catalog>,
    batch: Vec<Wanted<()>>,
) -> Result<Found> {
    let (index, catalog) = (index.clone(), catalog.clone());
    let found = Arc::new(parking_lot::Mutex::new(Found::default()));
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
            let each = |class, id: BlobId| match (index.row(&id, &catalog.removals), class) {
                (Ok(Some(row)), _) => out.rows.push((class, row)),
                (Ok(None), Class::Data) => out.missing += 1,
                (Ok(None), Class::Meta) => failure = Some(missing(&id)),
                (Err(e), _) => failure = Some(e),
            };
            references(&bytes, each).map_err(|e| damaged_tree("metadata", w.id, e))?;
            failure.map_or(Ok(()), Err)
        }
    };
    gather::read(repository, Origin::Anywhere, batch, take).await?;
    let found = std::mem::take(&mut *found.lock());
    Ok(found)
}

fn missing(id: &BlobId) -> Error {
    Error::MissingBlob { what: format!("metadata {}", id.short()) }
}
