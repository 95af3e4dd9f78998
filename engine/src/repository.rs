//! A repository: an opened store with its keys, its index and its catalogue.
//!
//! Opening reads CONFIG and the key slots; the index and the catalogue are read when first needed. Nothing takes a
//! lock in the store: any number of processes may read and back up at once, see `docs/FORMAT.md` §13.

pub mod catalog;
mod create;
mod index;
mod keys;
mod leftovers;
mod lookup;
mod merge;
mod mover;
mod opening;
mod packer;
pub mod reader;
pub mod recent;
pub mod repair;
mod scrub;
mod segment;
mod states;
pub(crate) mod transfer;
mod turns;
pub mod writer;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use crate::cache::frames::{FrameCache, FrameCacheStats};
use crate::cache::{LocalCache, WriterState};
use crate::config::Config;
use crate::crypto::{BlockKey, Keyring};
use crate::error::{Error, Result};
use crate::frame_source::{FrameRef, FrameSource, Purpose, Take};
use crate::id::ObjectId;
use crate::removal::{Removal, RemovalKind};
use crate::storage::{Area, ObjectName, Store, put_bytes};
use catalog::{Catalog, Known};
pub use create::{CreateOptions, create};
pub use index::Index;
pub(crate) use index::{Marks, Row, Weight};
pub use opening::Probe;
use reader::{Fetched, FrameReader, Origin};

/// Bytes of frames that are kept on this machine of a store that is far away.
const DISK_CACHE: u64 = 1 << 30;

/// Now, ns since 1970, by the local clock.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

/// An opened store.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    config: Config,
    keys: Arc<Keyring>,
    cache: Arc<LocalCache>,
    reader: FrameReader,
    writer: Mutex<WriterState>,
    index: RwLock<Option<Arc<Index>>>,
    /// Loads of the index, one at a time.
    loading: tokio::sync::Mutex<()>,
    catalog: OnceCell<()>,
    current: RwLock<Arc<Catalog>>,
    known: RwLock<Arc<Known>>,
    data_keys: index::DataKeys,
    /// States that could not be read when the index was loaded.
    unreadable_states: Mutex<Vec<(ObjectId, String)>>,
    notices: Vec<String>,
}

impl Repository {
    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Its parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its keys.
    pub fn keys(&self) -> &Arc<Keyring> {
        &self.keys
    }

    /// Its local cache.
    pub fn cache(&self) -> &Arc<LocalCache> {
        &self.cache
    }

    /// How many bytes of frames are best kept on this machine, unless the user says otherwise: none of a store that
    /// is as near itself.
    pub fn default_disk_cache(&self) -> u64 {
        match self.store.local_path() {
            Some(_) => 0,
            None => DISK_CACHE,
        }
    }

    /// Keeps frames that are read on this machine's disk too, up to so many bytes; 0 for none. Others that use the
    /// same store share what is there, and each keeps to its own limit.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn use_disk_cache(&self, bytes: u64) -> Result<()> {
        let wanted = bytes > 0 && !self.cache.is_temporary();
        let cache = wanted.then(|| FrameCache::open(&self.cache.frames_directory(), bytes)).transpose()?;
        self.reader.set_disk(cache);
        Ok(())
    }

    /// What the frame cache on this machine's disk has done and holds, if it is used.
    pub fn disk_cache_stats(&self) -> Option<FrameCacheStats> {
        self.reader.disk().map(|c| c.stats())
    }

    /// Waits until the frames that were read last are in the cache on disk, as far as they are kept. For tests, and
    /// for programs that end soon.
    pub async fn flush_disk_cache(&self) {
        if let Some(cache) = self.reader.disk() {
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || cache.flush()).await;
        }
    }

    /// What the user should know about how it was opened.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Fetches frames, none twice, and hands them to a worker off the async threads, which opens them.
    pub(crate) async fn bulk<T: Send + 'static>(
        &self,
        wanted: Vec<FrameRef>,
        origin: Origin,
        work: impl FnOnce(Fetched) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.reader.bulk(wanted, origin, work).await
    }

    /// Marks snapshots as deleted; their data goes when maintenance runs.
    pub async fn remove_snapshots(&self, ids: &[ObjectId], reason: &str) -> Result<()> {
        for target in ids {
            // One each: an undelete names what it takes back.
            self.remove(RemovalKind::Tombstone, vec![*target], reason).await?;
        }
        Ok(())
    }

    pub(crate) async fn remove(&self, kind: RemovalKind, targets: Vec<ObjectId>, reason: &str) -> Result<()> {
        let (time_ns, reason, writer) = (now_ns(), reason.to_owned(), self.writer.lock().writer);
        self.put_removal(Removal { kind, targets, successor: None, time_ns, reason, writer }).await
    }

    async fn put_removal(&self, removal: Removal) -> Result<()> {
        self.put_small(Area::Removals, &removal.encode()).await.map(drop)
    }

    /// The key of an area's objects of one block.
    fn key_of(&self, area: Area) -> &BlockKey {
        match area {
            Area::Snapshots => &self.keys.snapshots,
            Area::Leases => &self.keys.index,
            _ => &self.keys.manage,
        }
    }

    /// Writes an object of one block under a new id; gives the id and how the store lists it.
    pub(crate) async fn put_small(&self, area: Area, fields: &[u8]) -> Result<(ObjectId, Bytes, i64)> {
        let id = ObjectId::random();
        let key = self.key_of(area);
        let bytes: Bytes =
            crate::object::encode_small(key, area, self.config.store, self.keys.is_sealed(), id, fields)
                .into();
        let listed = put_bytes(self.store.as_ref(), ObjectName::new(area, id), bytes.clone()).await?;
        Ok((id, bytes, listed.modified_ns))
    }
}

#[async_trait]
impl FrameSource for Repository {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>> {
        self.reader.frames(wanted, purpose, Origin::Anywhere).await
    }

    async fn each(&self, wanted: &[FrameRef], purpose: Purpose, take: Take<'_>) {
        self.reader.each(wanted, purpose, Origin::Anywhere, take).await;
    }

    fn raise(&self, wanted: &[FrameRef]) {
        self.reader.raise(wanted);
    }
}

/// Frames as the store itself has them, whatever is cached on this machine: for checking.
#[derive(Debug)]
pub(crate) struct StoreFrames(pub(crate) Arc<Repository>);

#[async_trait]
impl FrameSource for StoreFrames {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>> {
        self.0.reader.frames(wanted, purpose, Origin::Store).await
    }
}
