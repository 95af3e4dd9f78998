//! A store that notes what it is asked for, and can hold its answers back until they are let go one by one.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::LocalDirs;
use crate::error::Result;
use crate::repository::Repository;
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError};

/// One call that was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A listing.
    List(Area),
    /// A read.
    Get(ObjectName, Option<Range<u64>>),
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    holding: bool,
    released: HashSet<usize>,
}

/// Watches listings and reads of the store below.
#[derive(Clone, Debug)]
pub struct WatchedStore {
    below: Arc<dyn Store>,
    state: Arc<watch::Sender<State>>,
}

impl WatchedStore {
    /// In front of a store; answers at once until told otherwise.
    pub fn new(below: Arc<dyn Store>) -> Self {
        Self { below, state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Over a new sealed store in memory, with its repository.
    pub async fn with_repository(dirs: &LocalDirs) -> Result<(Self, Arc<Repository>)> {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        super::new_store(&memory).await?;
        let watched = Self::new(memory);
        let store: Arc<dyn Store> = Arc::new(watched.clone());
        let repository = super::open(&store, dirs).await?;
        Ok((watched, repository))
    }

    /// Forgets what was noted; from now on reads wait to be released.
    pub fn hold(&self) {
        self.state.send_modify(|s| *s = State { holding: true, ..State::default() });
    }

    /// Lets the answer to one call go, counted from [`WatchedStore::hold`].
    pub fn release(&self, call: usize) {
        self.state.send_modify(|s| s.released.extend([call]));
    }

    /// Lets all answers go.
    pub fn release_all(&self) {
        self.state.send_modify(|s| s.holding = false);
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state.borrow().calls.clone()
    }

    /// The calls so far, which are forgotten.
    pub fn take_calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.state.send_modify(|s| calls = std::mem::take(&mut s.calls));
        calls
    }

    /// Waits until there are so many calls; gives them.
    pub async fn until_calls(&self, n: usize) -> Vec<Call> {
        let mut changes = self.state.subscribe();
        // The sender lives as long as this store.
        changes.wait_for(|s| s.calls.len() >= n).await.map(|s| s.calls.clone()).unwrap_or_default()
    }

    fn note(&self, call: Call) -> usize {
        let mut n = 0;
        self.state.send_modify(|s| {
            n = s.calls.len();
            s.calls.push(call);
        });
        n
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn location(&self) -> String {
        self.below.location()
    }

    fn local_path(&self) -> Option<&Path> {
        self.below.local_path()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.below.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        self.note(Call::List(area));
        self.below.list(area).await
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let n = self.note(Call::Get(name, range.clone()));
        let mut changes = self.state.subscribe();
        // The sender lives as long as this store.
        drop(changes.wait_for(|s| !s.holding || s.released.contains(&n)).await);
        self.below.get(name, range).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.below.stat(name).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        self.below.put(name).await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.below.delete(name).await
    }
}
