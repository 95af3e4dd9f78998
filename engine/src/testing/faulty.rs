//! A store that fails on purpose: at the n-th call, or all calls after it, as a crash would look to the next run.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};

/// Lets a number of calls through to the store below, and fails from then on. Reads and writes count alike.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    below: Arc<dyn Store>,
    left: Arc<AtomicI64>,
}

impl FaultyStore {
    /// Fails after `calls`.
    pub fn new(below: Arc<dyn Store>, calls: i64) -> Self {
        Self { below, left: Arc::new(AtomicI64::new(calls)) }
    }

    /// Fails from now on.
    pub fn fail_now(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Whether it has failed yet.
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    fn call(&self, operation: &'static str, subject: impl std::fmt::Display) -> Result<(), StoreError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        self.left.store(-1, Ordering::Relaxed);
        Err(StoreError::new(StoreErrorKind::Unavailable, operation, subject, "the store is gone"))
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn location(&self) -> String {
        self.below.location()
    }

    fn local_path(&self) -> Option<&Path> {
        self.below.local_path()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.call("create", "store")?;
        self.below.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        self.call("list", area.name())?;
        self.below.list(area).await
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.call("read", name)?;
        self.below.get(name, range).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.call("look at", name)?;
        self.below.stat(name).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        self.call("write", name)?;
        let put = self.below.put(name).await?;
        Ok(Box::new(FaultyPut { store: self.clone(), name, put }))
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.call("delete", name)?;
        self.below.delete(name).await
    }
}

struct FaultyPut {
    store: FaultyStore,
    name: ObjectName,
    put: Box<dyn PutObject>,
}

#[async_trait]
impl PutObject for FaultyPut {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.store.call("write", self.name)?;
        self.put.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<Listed, StoreError> {
        self.store.call("write", self.name)?;
        self.put.finish().await
    }

    async fn abort(self: Box<Self>) {
        self.put.abort().await;
    }
}
