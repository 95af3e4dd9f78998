//! What is live: every blob that a snapshot leads to, as marks on the rows of the index.
//!
//! Metadata is read level by level from the roots down, each level in the order in which it is stored and each blob
//! once, however many snapshots share it. In memory are three bits for each row, and one level of one segment.

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::crypto::Class;
use crate::error::Result;
use crate::ops::reach::{Named, Reach, missing};
use crate::repository::catalog::Catalog;
use crate::repository::{Index, Marks, Repository};
use crate::snapshot::Snapshot;

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
        let (repository, index, catalog) = (repository.clone(), index.clone(), catalog.clone());
        let reach = Reach { repository, index, catalog, cancel: cancel.clone() };
        let meet = |(class, id, row): Named| match (row, class) {
            (Some(row), _) => Ok(self.marks.mark(row)),
            (None, Class::Data) => {
                self.missing += 1;
                Ok(false)
            }
            (None, Class::Meta) => Err(missing(&id)),
        };
        reach.follow(snapshots.iter().flat_map(|s| s.tops()), meet).await
    }
}
