//! A store in memory, for tests and benchmarks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};

type Objects = Arc<Mutex<BTreeMap<ObjectName, (Bytes, i64)>>>;

/// Objects in a map. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: Objects,
    /// How far its clock is ahead of this machine's, in ns.
    ahead_ns: Arc<AtomicI64>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces an object's bytes, as damage would. For tests.
    pub fn tamper(&self, name: ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects.lock();
        if let Some((bytes, _)) = objects.get_mut(&name) {
            let mut v = bytes.to_vec();
            change(&mut v);
            *bytes = v.into();
        }
    }

    /// Loses an object. For tests.
    pub fn lose(&self, name: ObjectName) {
        self.objects.lock().remove(&name);
    }

    /// What time it is by its clock, ns since 1970.
    pub fn now_ns(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        now + self.ahead_ns.load(Ordering::Relaxed)
    }

    /// Sets its clock forward. For tests.
    pub fn pass(&self, time: Duration) {
        self.ahead_ns.fetch_add(time.as_nanos() as i64, Ordering::Relaxed);
    }

    /// Every name, in order.
    pub fn names(&self) -> Vec<ObjectName> {
        self.objects.lock().keys().copied().collect()
    }

    /// A copy that shares nothing with this one.
    pub fn snapshot(&self) -> Self {
        let objects = self.objects.lock().clone();
        Self { objects: Arc::new(Mutex::new(objects)), ahead_ns: self.ahead_ns.clone() }
    }
}

fn missing(operation: &'static str, name: ObjectName) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, operation, name, "no such object")
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "mem:".into()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        if self.names().is_empty() {
            return Ok(());
        }
        Err(StoreError::new(StoreErrorKind::AlreadyExists, "create", "mem:", "it is not empty"))
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let objects = self.objects.lock();
        Ok(objects
            .iter()
            .filter(|(n, _)| n.area == area)
            .map(|(n, (b, t))| Listed { id: n.id, len: b.len() as u64, modified_ns: *t })
            .collect())
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let objects = self.objects.lock();
        let (bytes, _) = objects.get(&name).ok_or_else(|| missing("read", name))?;
        match range {
            None => Ok(bytes.clone()),
            Some(r) if r.end <= bytes.len() as u64 && r.start <= r.end => {
                Ok(bytes.slice(r.start as usize..r.end as usize))
            }
            Some(_) => Err(StoreError::new(StoreErrorKind::OutOfRange, "read", name, "it is shorter")),
        }
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        let objects = self.objects.lock();
        let (b, t) = objects.get(&name).ok_or_else(|| missing("look at", name))?;
        Ok(Listed { id: name.id, len: b.len() as u64, modified_ns: *t })
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        let store = self.clone();
        Ok(Box::new(MemoryPut { store, name, bytes: BytesMut::new() }))
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.objects.lock().remove(&name);
        Ok(())
    }
}

struct MemoryPut {
    store: MemoryStore,
    name: ObjectName,
    bytes: BytesMut,
}

#[async_trait]
impl PutObject for MemoryPut {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Listed, StoreError> {
        let now = self.store.now_ns();
        let listed = Listed { id: self.name.id, len: self.bytes.len() as u64, modified_ns: now };
        let mut objects = self.store.objects.lock();
        if objects.contains_key(&self.name) {
            let kind = StoreErrorKind::AlreadyExists;
            return Err(StoreError::new(kind, "write", self.name, "it exists already"));
        }
        objects.insert(self.name, (self.bytes.freeze(), now));
        Ok(listed)
    }

    async fn abort(self: Box<Self>) {}
}
