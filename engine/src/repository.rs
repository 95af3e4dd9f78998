//! A repository: an opened store with its keys, its index and its catalogue.
//!
//! Opening reads CONFIG and the key slots; the index and the catalogue are read when first needed. Nothing takes a
//! lock in the store: any number of processes may read and back up at once, see `docs/FORMAT.md` §13.

pub mod catalog;
mod index;
mod leftovers;
mod opening;
mod packer;
pub mod reader;
pub mod recent;
pub mod repair;
mod scrub;
mod segment;
mod states;
mod turns;
pub mod writer;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use crate::cache::frames::{FrameCache, FrameCacheStats};
use crate::cache::{LocalCache, LocalDirs, WriterState};
use crate::config::Config;
use crate::crypto::kdf::KdfParams;
use crate::crypto::{BlockKey, Keyring};
use crate::error::{Error, Result};
use crate::id::{BlobId, ObjectId};
use crate::keyslot::{KeySlot, UserSecret};
use crate::storage::{Area, ObjectName, Store, put_bytes};
use crate::vfs::Located;
use catalog::{Catalog, Known, Listing};
pub use index::Index;
pub(crate) use index::{Marks, Row, blocking};
pub use opening::{CreateOptions, Probe, create};
use reader::{Fetched, FrameReader, FrameRef, FrameSource, Origin, Purpose, Take};

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
    /// Opens a store that was probed.
    ///
    /// # Errors
    /// `SecretNeeded`, `WrongSecret`, a damaged or newer CONFIG.
    pub async fn open(
        store: Arc<dyn Store>,
        probe: Probe,
        secret: Option<UserSecret>,
        dirs: &LocalDirs,
    ) -> Result<Arc<Self>> {
        let dirs = dirs.clone();
        let place = store.local_path().map_or_else(|| store.location(), |p| p.display().to_string());
        let unlocked = index::blocking(move || {
            let (config, keys, notices) = probe.unlock(secret.as_ref())?;
            let mut writer = WriterState::open(&dirs, config.store);
            if config.sealed {
                writer.note_sealed();
            } else if writer.sealed {
                return Err(Error::NotAStore {
                    location: probe.location().to_owned(),
                    reason:
                        "it was encrypted when it was last seen and is not now: somebody has replaced CONFIG"
                            .into(),
                });
            }
            let cache = LocalCache::open(&dirs, config.store)?;
            cache.note_location(&place);
            Ok((config, keys, notices, writer, cache))
        });
        let (config, keys, notices, writer, cache) = unlocked.await?;
        Ok(Arc::new(Self {
            reader: FrameReader::new(store.clone()),
            store,
            config,
            keys: Arc::new(keys),
            cache: Arc::new(cache),
            writer: Mutex::new(writer),
            index: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            catalog: OnceCell::new(),
            current: RwLock::default(),
            known: RwLock::default(),
            data_keys: Mutex::default(),
            unreadable_states: Mutex::default(),
            notices,
        }))
    }

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

    /// Reads which snapshots there are, from the store's listings. Only objects that are new are read.
    pub async fn refresh_catalog(&self) -> Result<Arc<Catalog>> {
        self.load_catalog(Listing::read(self.store.as_ref()).await?).await
    }

    /// The catalogue, if the store's listings are no longer those that a catalogue was read from: its
    /// [`listing`](Catalog::listing). Where nothing has changed it costs three listings.
    pub async fn catalog_since(&self, listing: &[u8; 32]) -> Result<Option<Arc<Catalog>>> {
        let now = Listing::read(self.store.as_ref()).await?;
        if now.digest() == *listing {
            return Ok(None);
        }
        self.load_catalog(now).await.map(Some)
    }

    async fn load_catalog(&self, listing: Listing) -> Result<Arc<Catalog>> {
        let known = self.known.read().clone();
        let (catalog, known) = catalog::load(self, listing, &known).await?;
        *self.known.write() = Arc::new(known);
        let catalog = Arc::new(catalog);
        *self.current.write() = catalog.clone();
        let _ = self.catalog.set(());
        Ok(catalog)
    }

    /// The catalogue as last read; read now if it was not yet.
    pub async fn catalog(&self) -> Result<Arc<Catalog>> {
        if !self.catalog.initialized() {
            return self.refresh_catalog().await;
        }
        Ok(self.current.read().clone())
    }

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
        // A replaced state is left out only once its successor is listed; whether that can be read shows below.
        let there: std::collections::HashSet<ObjectId> = listed.iter().map(|l| l.id).collect();
        let wanted: Vec<_> = listed
            .into_iter()
            .filter(|l| catalog.removals.successor(&l.id).is_none_or(|s| !there.contains(&s)))
            .collect();
        let (index, unreadable) = loop {
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
                loaded => break loaded?,
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
    fn set_index(&self, index: Arc<Index>) {
        *self.index.write() = Some(index);
    }

    fn index_now(&self) -> Option<Arc<Index>> {
        self.index.read().clone()
    }

    /// States that could not be read, and why.
    pub fn unreadable_states(&self) -> Vec<(ObjectId, String)> {
        self.unreadable_states.lock().clone()
    }

    fn removals_now(&self) -> Arc<Catalog> {
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
    pub(crate) fn locate_row(&self, index: &Index, row: index::Row) -> Result<(BlobId, Located)> {
        index.locate_row(row, &self.keys, &self.data_keys)
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

    /// Adds a key slot.
    pub async fn add_key(&self, secret: &UserSecret, label: &str, kdf: KdfParams) -> Result<KeySlot> {
        if !self.keys.is_sealed() {
            return Err(Error::Usage("a store that is not encrypted has no keys".into()));
        }
        let config = self.config.encode(&self.keys);
        let (keys, secret, label) = (self.keys.clone(), secret.clone(), label.to_owned());
        let slot = index::blocking(move || {
            KeySlot::new(&keys, &secret, kdf, &label, now_ns(), config)
                .map_err(|e| Error::Usage(e.to_string()))
        })
        .await?;
        let name = ObjectName::new(Area::Keys, slot.id);
        let stored = async {
            put_bytes(self.store.as_ref(), name, slot.encode().into()).await?;
            let back = self.store.get(name, None).await?;
            KeySlot::decode(slot.id, &back).map_err(|e| Error::object(name, e))
        };
        if let Err(e) = stored.await {
            // It may be there. Its secret is given to nobody now.
            if let Err(left) = self.store.delete(name).await {
                tracing::warn!(slot = %slot.id.short(), error = report(&left), "a key that opens nothing may be left");
            }
            return Err(e);
        }
        Ok(slot)
    }

    /// Removes a key slot; never the last one that is whole.
    pub async fn remove_key(&self, id: ObjectId) -> Result<()> {
        let slots = self.store.list(Area::Keys).await?;
        if !slots.iter().any(|l| l.id == id) {
            return Err(Error::Usage(format!("there is no key {}", id.short())));
        }
        let mut others = 0;
        for l in slots.iter().filter(|l| l.id != id) {
            let bytes = self.store.get(ObjectName::new(Area::Keys, l.id), None).await?;
            let slot = KeySlot::decode(l.id, &bytes).ok();
            others += usize::from(slot.is_some_and(|s| Config::verify(&s.config, &self.keys)));
        }
        if others == 0 {
            return Err(Error::Usage(
                "this is the only key that is whole: without it nobody could open the store again".into(),
            ));
        }
        Ok(self.store.delete(ObjectName::new(Area::Keys, id)).await?)
    }

    /// Marks snapshots as deleted; their data goes when maintenance runs.
    pub async fn remove_snapshots(&self, ids: &[ObjectId], reason: &str) -> Result<()> {
        use crate::removal::{Removal, RemovalKind};
        let writer = self.writer.lock().writer;
        for target in ids {
            let removal = Removal {
                kind: RemovalKind::Tombstone,
                targets: vec![*target],
                successor: None,
                time_ns: now_ns(),
                reason: reason.into(),
                writer,
            };
            self.put_small(Area::Removals, &removal.encode()).await?;
        }
        Ok(())
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

/// An error and its causes in one line.
pub fn report(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let cause = e.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = e.source();
    }
    text
}
