//! Another try for what may go well the next time: a decorator in front of any store.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Area, Listed, ObjectName, PutObject, Store, StoreError};

/// Pauses before further tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// After so many failures that no further try has helped, none is made: where a disk has died, each would only delay
/// the end.
const HOPELESS: u32 = 16;

/// A store whose reads and listings are tried again when they fail in a way that may pass. What is written is not: half
/// of it may have arrived.
#[derive(Clone)]
pub struct RetryingStore {
    below: Arc<dyn Store>,
    pauses: [Duration; 2],
    /// Failures in a row that lasted.
    lasting: Arc<AtomicU32>,
}

impl RetryingStore {
    /// In front of a store.
    pub fn new(below: Arc<dyn Store>) -> Self {
        Self { below, pauses: PAUSES, lasting: Arc::default() }
    }

    async fn again<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut pauses = self.pauses.iter();
        loop {
            match call().await {
                Err(e) if e.is_retryable() && self.lasting.load(Ordering::Relaxed) < HOPELESS => {
                    let Some(pause) = pauses.next() else {
                        self.lasting.fetch_add(1, Ordering::Relaxed);
                        return Err(e);
                    };
                    tracing::debug!(%e, "trying again");
                    tokio::time::sleep(*pause).await;
                }
                answer => {
                    if answer.is_ok() && pauses.len() < self.pauses.len() {
                        self.lasting.store(0, Ordering::Relaxed);
                    }
                    return answer;
                }
            }
        }
    }
}

impl fmt::Debug for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.below.fmt(f)
    }
}

#[async_trait]
impl Store for RetryingStore {
    fn location(&self) -> String {
        self.below.location()
    }

    fn local_path(&self) -> Option<&Path> {
        self.below.local_path()
    }

    fn notice(&self) -> Option<String> {
        self.below.notice()
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        self.below.faults().await
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.below.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let listed = self.again(|| self.below.list(area)).await;
        tracing::trace!(area = area.name(), objects = listed.as_ref().map_or(0, Vec::len), "list");
        listed
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        tracing::trace!(object = %name, ?range, "get");
        self.again(|| self.below.get(name, range.clone())).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        tracing::trace!(object = %name, "stat");
        self.again(|| self.below.stat(name)).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        tracing::trace!(object = %name, "put");
        self.below.put(name).await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        tracing::trace!(object = %name, "delete");
        self.below.delete(name).await
    }

    async fn remove_unfinished(&self, now_ns: i64) -> Result<u64, StoreError> {
        self.below.remove_unfinished(now_ns).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;
    use crate::storage::memory::MemoryStore;
    use crate::storage::{StoreErrorKind, put_bytes};

    /// Fails the first reads with one kind of failure.
    #[derive(Debug)]
    struct Flaky(MemoryStore, AtomicU32, StoreErrorKind);

    #[async_trait]
    impl Store for Flaky {
        fn location(&self) -> String {
            self.0.location()
        }
        fn local_path(&self) -> Option<&Path> {
            None
        }
        async fn prepare(&self) -> Result<(), StoreError> {
            self.0.prepare().await
        }
        async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
            self.0.list(area).await
        }
        async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
            if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                return Err(StoreError::new(self.2, "read", name, "a bad moment"));
            }
            self.0.get(name, range).await
        }
        async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
            self.0.stat(name).await
        }
        async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
            self.0.put(name).await
        }
        async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
            self.0.delete(name).await
        }
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        let name = ObjectName::new(Area::Data, ObjectId([1; 32]));
        let memory = MemoryStore::new();
        put_bytes(&memory, name, Bytes::from_static(b"x")).await.unwrap();
        let read = |fails, kind| {
            let flaky = Arc::new(Flaky(memory.clone(), AtomicU32::new(fails), kind));
            let pauses = [Duration::from_millis(1); 2];
            let store = RetryingStore { pauses, ..RetryingStore::new(flaky.clone()) };
            async move {
                let answer = store.get(name, None).await.map_err(|e| e.kind());
                (answer, flaky, store)
            }
        };
        let bytes = Ok(Bytes::from_static(b"x"));
        assert_eq!(read(2, StoreErrorKind::Unreadable).await.0, bytes);
        assert_eq!(read(1, StoreErrorKind::TimedOut).await.0, bytes);
        let (answer, flaky, store) = read(1000, StoreErrorKind::Unreadable).await;
        assert_eq!((answer, flaky.1.load(Ordering::Relaxed)), (Err(StoreErrorKind::Unreadable), 997));
        // A disk that has died is not waited for again and again: 200 calls are hardly more tries.
        for _ in 0..200 {
            assert!(store.get(name, None).await.is_err());
        }
        assert!(flaky.1.load(Ordering::Relaxed) > 700);
        assert_eq!(read(1, StoreErrorKind::Other).await.0, Err(StoreErrorKind::Other));
        assert_eq!(read(1, StoreErrorKind::NotFound).await.0, Err(StoreErrorKind::NotFound));
    }
}
