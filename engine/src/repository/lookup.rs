//! The index of an opened store: loaded when it is first needed, and asked where blobs are.

use std::collections::HashSet;
use std::sync::Arc;

use super::Repository;
use super::catalog::Catalog;
use super::index::{Index, Row};
use crate::blocking::blocking;
use crate::error::{Error, Result, report};
use crate::frame_source::{FrameRef, Located};
use crate::id::{BlobId, ObjectId};
use crate::storage::{Area, Listed};

impl Repository {
    /// Brings the index up to the states that the store lists now, every local file verified.
    pub async fn refresh_index(&self) -> Result<Arc<Index>> {
        let _one = self.loading.lock().await;
        self.load_index(true).await
    }

    /// The index; loaded now if it was not yet.
    pub async fn index(&self) -> Result<Arc<Index>> {
        if let Some(index) = self.index_now() {
            return Ok(index);
        }
        let _one = self.loading.lock().await;
        match self.index_now() {
            Some(index) => Ok(index),
            None => self.load_index(false).await,
        }
    }

    async fn load_index(&self, mut thorough: bool) -> Result<Arc<Index>> {
        let listed = self.store.list(Area::States).await?;
        let catalog = self.catalog().await?;
        let there: HashSet<ObjectId> = listed.iter().map(|l| l.id).collect();
        // A replaced state is left out only if its successor is there and whole.
        let mut broken: HashSet<ObjectId> = HashSet::new();
        let (index, unreadable) = loop {
            let is_usable = |s: &ObjectId| there.contains(s) && !broken.contains(s);
            let is_replaced = |l: &Listed| catalog.removals.stand_in(&l.id, is_usable).is_some();
            let wanted: Vec<Listed> = listed.iter().copied().filter(|l| !is_replaced(l)).collect();
            let directory = self.cache.index_directory();
            match Index::load(&directory, &self.store, &self.keys, &wanted, thorough).await {
                // What is damaged is left out when all is verified, and read from the store again.
                Err(Error::DamagedIndex { .. }) if !thorough => thorough = true,
                // A disk that is full, cannot be written, or gives back other bytes than it took: the index goes
                // elsewhere, for this process.
                Err(e @ (Error::Io { .. } | Error::DamagedIndex { .. })) => {
                    let cache = self.cache.clone();
                    if !blocking(move || Ok(cache.move_index())).await? {
                        return Err(e);
                    }
                    tracing::warn!(e = report(&e), "the index is kept elsewhere for this once");
                }
                loaded => {
                    let (index, unreadable) = loaded?;
                    let before = broken.len();
                    let ids = unreadable.iter().map(|(id, _)| *id);
                    broken.extend(ids.filter(|id| catalog.removals.has_replaced(id)));
                    if broken.len() == before {
                        break (index, unreadable);
                    }
                }
            }
        };
        for (id, e) in &unreadable {
            tracing::warn!(state = %id, %e, "a state cannot be read; what it names is unknown");
        }
        *self.unreadable_states.lock() = unreadable.into_iter().map(|(id, e)| (id, report(&e))).collect();
        let index = Arc::new(index);
        *self.index.write() = Some(index.clone());
        Ok(index)
    }

    /// For a run that begins: the index of the states that the store lists now, without verifying local files.
    pub(crate) async fn refresh_index_lazily(&self) -> Result<Arc<Index>> {
        let _one = self.loading.lock().await;
        self.load_index(false).await
    }

    /// Takes over an index that a run of this process has extended.
    pub(super) fn set_index(&self, index: Arc<Index>) {
        *self.index.write() = Some(index);
    }

    pub(super) fn index_now(&self) -> Option<Arc<Index>> {
        self.index.read().clone()
    }

    /// States that could not be read, and why.
    pub fn unreadable_states(&self) -> Vec<(ObjectId, String)> {
        self.unreadable_states.lock().clone()
    }

    pub(super) fn removals_now(&self) -> Arc<Catalog> {
        self.current.read().clone()
    }

    /// Up to `count` frames that are stored one behind the other in a blob's packfile, from the one that it begins in
    /// on, and the number of the first in the packfile: for reading ahead of somebody who walks through a tree, since
    /// trees are stored in walking order.
    ///
    /// # Errors
    /// As [`Repository::locate`].
    pub fn stored_from(&self, id: &BlobId, count: usize) -> Result<(u64, Vec<FrameRef>)> {
        let catalog = self.removals_now();
        let missing = || Error::MissingBlob { what: format!("blob {}", id.short()) };
        let index = self.index_now().ok_or_else(missing)?;
        let row = index.row(id, &catalog.removals)?.ok_or_else(missing)?;
        index.stored_from(row, count, &self.keys, &self.data_keys)
    }

    /// Where a blob is, by the index as loaded.
    ///
    /// # Errors
    /// `MissingBlob` when no state names it, or the index was not loaded yet.
    pub fn locate(&self, id: &BlobId) -> Result<Located> {
        let catalog = self.removals_now();
        let missing = || Error::MissingBlob { what: format!("blob {}", id.short()) };
        let index = self.index_now().ok_or_else(missing)?;
        let row = index.row(id, &catalog.removals)?.ok_or_else(missing)?;
        index.locate_row(row, &self.keys, &self.data_keys).map(|(_, located)| located)
    }

    /// Where the blob of a row is, and its id.
    pub(crate) fn locate_row(&self, index: &Index, row: Row) -> Result<(BlobId, Located)> {
        index.locate_row(row, &self.keys, &self.data_keys)
    }
}
