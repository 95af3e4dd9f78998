//! A store in memory with snapshots in it, and stores that misbehave.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plakar_engine::cache::LocalDirs;
use plakar_engine::crypto::kdf::KdfParams;
use plakar_engine::keyslot::UserSecret;
use plakar_engine::monitor::Silent;
use plakar_engine::ops::Cancel;
use plakar_engine::ops::backup::{BackupOptions, backup};
use plakar_engine::repository::{CreateOptions, Probe, Repository, create};
use plakar_engine::snapshot::Snapshot;
use plakar_engine::storage::memory::MemoryStore;
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};

use crate::source::{MemorySource, Node};

/// A store with its repository, and directories for its local state.
#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) store: Arc<TroubledStore>,
    pub(crate) repository: Arc<Repository>,
    /// Removed at the end.
    pub(crate) place: tempfile::TempDir,
}

impl TestStore {
    /// An encrypted store without snapshots.
    pub(crate) async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let dirs = LocalDirs { cache: place.path().join("cache"), state: place.path().join("state") };
        let store = Arc::new(TroubledStore::default());
        let port: Arc<dyn Store> = store.clone();
        let secret = UserSecret::passphrase("long enough");
        let cheap = KdfParams { memory_kib: 64, passes: 1, lanes: 1, ..KdfParams::recommended() };
        let options = CreateOptions { kdf: Some(cheap), ..CreateOptions::default() };
        create(&port, Some(&secret), &options).await.unwrap();
        let probe = Probe::read(&port).await.unwrap();
        let repository = Repository::open(port, probe, Some(secret), &dirs).await.unwrap();
        Self { store, repository, place }
    }

    /// With one snapshot of a tree.
    pub(crate) async fn with(top: Node, roots: &[&str]) -> (Self, Snapshot) {
        let store = Self::new().await;
        let snapshot = store.backup(top, roots, Snapshot::empty()).await;
        (store, snapshot)
    }

    pub(crate) async fn backup(&self, top: Node, roots: &[&str], header: Snapshot) -> Snapshot {
        let source =
            MemorySource::new(top, roots, if header.host.is_empty() { "here" } else { &header.host });
        let options = BackupOptions { header: Some(header), reread: true, ..BackupOptions::default() };
        let report =
            backup(&self.repository, source, options, Arc::new(Silent), Cancel::default()).await.unwrap();
        self.repository.refresh_catalog().await.unwrap();
        report.snapshot
    }
}

/// A store in memory that counts, delays or fails what is asked of it.
#[derive(Debug, Default)]
pub(crate) struct TroubledStore {
    pub(crate) memory: MemoryStore,
    pub(crate) gets: AtomicU64,
    pub(crate) trouble: Mutex<Trouble>,
}

/// What goes wrong when packfiles are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Trouble {
    #[default]
    None,
    Fail,
    Delay(Duration),
}

impl TroubledStore {
    pub(crate) fn set(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    pub(crate) fn gets(&self) -> u64 {
        self.gets.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for TroubledStore {
    fn location(&self) -> String {
        self.memory.location()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.memory.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        self.memory.list(area).await
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        if matches!(name.area, Area::Data | Area::Meta) {
            self.gets.fetch_add(1, Ordering::SeqCst);
            let trouble = *self.trouble.lock().unwrap();
            match trouble {
                Trouble::None => {}
                Trouble::Fail => {
                    return Err(StoreError::new(StoreErrorKind::Unavailable, "read", name, "it is away"));
                }
                Trouble::Delay(time) => tokio::time::sleep(time).await,
            }
        }
        self.memory.get(name, range).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.memory.stat(name).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        self.memory.put(name).await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.memory.delete(name).await
    }
}
