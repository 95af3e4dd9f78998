//! A store in memory with snapshots in it, and stores that misbehave.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plakar_engine::cache::LocalDirs;
use plakar_engine::cancel::Cancel;
use plakar_engine::crypto::kdf::KdfParams;
use plakar_engine::keyslot::UserSecret;
use plakar_engine::monitor::Silent;
use plakar_engine::ops::backup::{BackupOptions, Parent, backup};
use plakar_engine::repository::{CreateOptions, Probe, Repository, create};
use plakar_engine::snapshot::{Description, Snapshot};
use plakar_engine::storage::memory::MemoryStore;
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};
use tokio::sync::watch;

use crate::random::Random;
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
        let snapshot = store.backup(top, roots, Description::default()).await;
        (store, snapshot)
    }

    pub(crate) async fn backup(&self, top: Node, roots: &[&str], description: Description) -> Snapshot {
        let source = MemorySource::new(
            top,
            roots,
            if description.host.is_empty() { "here" } else { &description.host },
        );
        let options = BackupOptions { description, parent: Parent::None, ..BackupOptions::default() };
        let report =
            backup(&self.repository, source, options, Arc::new(Silent), Cancel::default()).await.unwrap();
        self.repository.refresh_catalog().await.unwrap();
        report.snapshot
    }
}

/// A store in memory that counts, delays or fails what is asked of it.
#[derive(Debug)]
pub(crate) struct TroubledStore {
    pub(crate) memory: MemoryStore,
    gets: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
    trouble: watch::Sender<Trouble>,
}

/// What goes wrong when packfiles are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Fail,
    /// One request in ten fails.
    FailSome,
    Delay(Duration),
    /// Answers come when the trouble is over.
    Stop,
    /// What is asked for now is never answered, not even when the trouble is over.
    Lose,
}

impl Default for TroubledStore {
    fn default() -> Self {
        Self {
            memory: MemoryStore::default(),
            gets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            trouble: watch::Sender::new(Trouble::None),
        }
    }
}

impl TroubledStore {
    pub(crate) fn set(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Requests for parts of packfiles.
    pub(crate) fn gets(&self) -> u64 {
        self.gets.load(Ordering::SeqCst)
    }

    /// Bytes of packfiles that were given.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Requests that have no answer yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn suffer(&self, name: ObjectName) -> Result<(), StoreError> {
        let number = self.gets.fetch_add(1, Ordering::SeqCst);
        let mut trouble = self.trouble.subscribe();
        let now = *trouble.borrow_and_update();
        match now {
            Trouble::None => {}
            // In no step with anything that asks by turns.
            Trouble::FailSome if Random(number).below(10) > 0 => {}
            Trouble::Fail | Trouble::FailSome => {
                return Err(StoreError::new(StoreErrorKind::Unavailable, "read", name, "it is away"));
            }
            Trouble::Delay(time) => tokio::time::sleep(time).await,
            Trouble::Stop => drop(trouble.wait_for(|t| *t != Trouble::Stop).await),
            Trouble::Lose => std::future::pending().await,
        }
        Ok(())
    }
}

/// Counts a request for as long as it has no answer.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::SeqCst);
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
        if !matches!(name.area, Area::Data | Area::Meta) {
            return self.memory.get(name, range).await;
        }
        let waiting = Waiting::new(&self.waiting);
        self.suffer(name).await?;
        drop(waiting);
        let bytes = self.memory.get(name, range).await?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(bytes)
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
