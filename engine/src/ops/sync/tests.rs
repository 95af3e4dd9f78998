//! Copies are what was copied, only what is missing travels, and what cannot be copied whole is not copied.

use std::sync::Arc;

use super::*;
use crate::ops::check::{Depth, Scope, check};
use crate::repository::{CreateOptions, create};
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, ObjectName, Store};
use crate::testing::faulty::FaultyStore;
use crate::testing::watched::{Call, WatchedStore};
use crate::testing::{Fixture, back_up, local_dirs, open, read_tree, secret, small_chunks};

/// How two stores are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Shared,
    Own,
    None,
}

const ALL: [Keys; 3] = [Keys::Shared, Keys::Own, Keys::None];

struct Pair {
    local: tempfile::TempDir,
    stores: [MemoryStore; 2],
    from: Arc<Repository>,
    to: Arc<Repository>,
}

impl Pair {
    async fn new(keys: Keys) -> Self {
        let local = tempfile::tempdir().unwrap();
        let stores = [MemoryStore::new(), MemoryStore::new()];
        let dirs = local_dirs(local.path());
        let plain: [Arc<dyn Store>; 2] = [Arc::new(stores[0].clone()), Arc::new(stores[1].clone())];
        let secret = secret();
        let secret = (keys != Keys::None).then_some(&secret);
        create(&plain[0], secret, &small_chunks()).await.unwrap();
        let from = open(&plain[0], &dirs).await.unwrap();
        let keys_of = (keys == Keys::Shared).then(|| from.clone());
        create(&plain[1], secret, &CreateOptions { keys_of, ..small_chunks() }).await.unwrap();
        let to = open(&plain[1], &dirs).await.unwrap();
        Self { local, stores, from, to }
    }

    async fn sync(&self) -> Result<SyncReport> {
        self.sync_by(&self.from, &self.to).await
    }

    async fn sync_by(&self, from: &Arc<Repository>, to: &Arc<Repository>) -> Result<SyncReport> {
        let snapshots = from.refresh_catalog().await?.snapshots.clone();
        from.refresh_index().await?;
        sync(from, to, &snapshots, "here", Arc::new(crate::monitor::Silent), Cancel::default()).await
    }

    /// Every snapshot of the first store is in the second, and is the same; nothing is amiss there.
    async fn are_equal(&self) {
        let dirs = local_dirs(&self.local.path().join("fresh"));
        let fresh: Arc<dyn Store> = Arc::new(self.stores[1].clone());
        let to = open(&fresh, &dirs).await.unwrap();
        let (own, copies) = (self.from.refresh_catalog().await.unwrap(), to.catalog().await.unwrap());
        let there = identities(&copies, to.config().store);
        for s in &own.snapshots {
            let copy = &there[&s.identity(self.from.config().store)];
            assert_eq!(read_tree(&self.from, s).await.unwrap(), read_tree(&to, copy).await.unwrap());
            let plain =
                |s: &Snapshot| (s.time_ns, s.name.clone(), s.tags.clone(), s.roots.clone(), s.summary());
            assert_eq!(plain(s), plain(copy));
        }
        let whole: Vec<_> = copies.snapshots.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
        let silent = Arc::new(crate::monitor::Silent);
        let done = check(&to, &whole, Depth::Full, Scope::Store, silent, Cancel::default()).await.unwrap();
        assert_eq!(done.found, 0);
    }
}

/// Files small and large, holes, a huge directory, many extents, links and what else there is.
fn tree() -> Fixture {
    let many = (0..3000).map(|i| (format!("n{i:05}"), Fixture::file(format!("{i}"))));
    let mut sparse = vec![0; 200_000];
    sparse[100_000..150_000].fill(7);
    let mut sparse = Fixture::file(sparse);
    sparse.sparse = true;
    Fixture::directory([
        ("deep", Fixture::directory([("er", Fixture::directory([("x", Fixture::noise(50_000, 1))]))])),
        ("huge", Fixture::directory(many)),
        ("long", Fixture::noise(2_000_000, 2)),
        ("sparse", sparse),
        ("same", Fixture::noise(50_000, 1)),
        ("empty", Fixture::file("")),
        ("zeros", Fixture::file(vec![0; 300_000])),
        ("link", Fixture::symlink("long")),
        ("fifo", Fixture::fifo()),
        ("closed", Fixture::unreadable(10)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_what_was_copied() {
    for keys in ALL {
        let pair = Pair::new(keys).await;
        let mut source = tree();
        let first = back_up(&pair.from, &source).await.unwrap();
        pair.from
            .note(
                &pair.from.refresh_catalog().await.unwrap(),
                NoteKind::Description,
                first.snapshot.id,
                &["of it".into()],
            )
            .await
            .unwrap();
        let done = pair.sync().await.unwrap();
        assert_eq!((done.copied.len(), done.present), (1, 0), "{keys:?}");
        pair.are_equal().await;
        let copy = &done.copied[0].1;
        let noted = pair.to.refresh_catalog().await.unwrap();
        assert_eq!(noted.descriptions.get(&copy.id).map(String::as_str), Some("of it"));
        // Nothing to do.
        let objects = pair.stores[1].names().len();
        let again = pair.sync().await.unwrap();
        assert_eq!((again.copied.len(), again.present, again.added_bytes), (0, 1, 0), "{keys:?}");
        assert_eq!(pair.stores[1].names().len(), objects);
        // Only what changed travels; more snapshots at once.
        source.at("deep/er").put("y", Fixture::noise(30_000, 3));
        back_up(&pair.from, &source).await.unwrap();
        source.put("long", Fixture::noise(2_000_000, 2));
        source.at("huge").put("n00500x", Fixture::noise(10_000, 4));
        back_up(&pair.from, &source).await.unwrap();
        let done = pair.sync().await.unwrap();
        assert_eq!(done.copied.len(), 2, "{keys:?}");
        assert!(done.added_bytes < 200_000, "{keys:?}: {}", done.added_bytes);
        pair.are_equal().await;
        // And back: it has them all.
        let back = pair.sync_by(&pair.to, &pair.from).await.unwrap();
        assert_eq!((back.copied.len(), back.present), (0, 3), "{keys:?}");
        // What is new there comes back, and is told apart from what came from here.
        source.put("news", Fixture::noise(100_000, 5));
        back_up(&pair.to, &source).await.unwrap();
        let back = pair.sync_by(&pair.to, &pair.from).await.unwrap();
        assert_eq!((back.copied.len(), back.present), (1, 3), "{keys:?}: {:?}", back.failed);
        assert!(back.added_bytes < 300_000, "{keys:?}: {}", back.added_bytes);
        let there = pair.sync().await.unwrap();
        assert_eq!((there.copied.len(), there.present), (0, 4), "{keys:?}");
        pair.are_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn little_is_read_for_little_news() {
    for keys in ALL {
        let pair = Pair::new(keys).await;
        let mut source = tree();
        source.put("bulk", Fixture::noise(20_000_000, 9));
        back_up(&pair.from, &source).await.unwrap();
        pair.sync().await.unwrap();
        source.at("deep/er").put("y", Fixture::noise(30_000, 3));
        back_up(&pair.from, &source).await.unwrap();
        let watched = Arc::new(WatchedStore::new(Arc::new(pair.stores[0].clone())));
        let plain: Arc<dyn Store> = watched.clone();
        let from = open(&plain, &local_dirs(pair.local.path())).await.unwrap();
        pair.sync_by(&from, &pair.to).await.unwrap();
        let bytes = |call: &Call| match call {
            Call::Get(_, Some(range)) => range.end - range.start,
            _ => 0,
        };
        let read: u64 = watched.calls().iter().map(bytes).sum();
        // Of 22 MB: the one frame of metadata, once for each level.
        assert!(read < 2_000_000, "{keys:?}: {read}");
        pair.are_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_copies_are_known() {
    let pair = Pair::new(Keys::Own).await;
    let third = Pair::new(Keys::None).await;
    back_up(&pair.from, &tree()).await.unwrap();
    pair.sync().await.unwrap();
    third.sync_by(&pair.to, &third.to).await.unwrap();
    let done = third.sync_by(&pair.from, &third.to).await.unwrap();
    assert_eq!((done.copied.len(), done.present), (0, 1));
    assert!(pair.sync_by(&pair.from, &pair.from).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_whole_is_not_copied() {
    for keys in ALL {
        let pair = Pair::new(keys).await;
        let mut source = Fixture::directory([("a", Fixture::noise(60_000, 1))]);
        back_up(&pair.from, &source).await.unwrap();
        let before = pair.stores[0].names();
        source.put("b", Fixture::noise(60_000, 2));
        let hit = back_up(&pair.from, &source).await.unwrap();
        // Its packfile of data.
        let new = pair.stores[0].names().into_iter().filter(|n| !before.contains(n));
        let victim: Vec<ObjectName> = new.filter(|n| n.area == Area::Data).collect();
        source.put("b", Fixture::noise(60_000, 3));
        back_up(&pair.from, &source).await.unwrap();
        for name in victim {
            pair.stores[0].tamper(name, |bytes| bytes[1000] ^= 1);
        }
        let done = pair.sync().await.unwrap();
        assert_eq!(done.copied.len(), 2, "{keys:?}");
        assert_eq!(done.failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [hit.snapshot.id], "{keys:?}");
        let catalog = pair.to.refresh_catalog().await.unwrap();
        assert_eq!(catalog.snapshots.len(), 2);
        for s in &catalog.snapshots {
            read_tree(&pair.to, s).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_is_gone_on_with() {
    for keys in ALL {
        let pair = Pair::new(keys).await;
        let mut source = tree();
        for i in 0..3 {
            source.put("more", Fixture::noise(300_000, 20 + i));
            back_up(&pair.from, &source).await.unwrap();
        }
        let mut done = false;
        for calls in (5..400).step_by(7) {
            let faulty: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::new(pair.stores[1].clone()), calls));
            let dirs = local_dirs(&pair.local.path().join("faulty"));
            let Ok(to) = open(&faulty, &dirs).await else { continue };
            let _ = pair.sync_by(&pair.from, &to).await;
            let clean: Arc<dyn Store> = Arc::new(pair.stores[1].clone());
            let to = open(&clean, &local_dirs(&pair.local.path().join(format!("c{calls}")))).await.unwrap();
            let catalog = to.catalog().await.unwrap();
            for s in &catalog.snapshots {
                read_tree(&to, s).await.unwrap();
            }
            done = catalog.snapshots.len() == 3;
            if done {
                break;
            }
        }
        assert!(done, "{keys:?}");
        pair.are_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_changed_are_not_believed() {
    let pair = Pair::new(Keys::Own).await;
    let mut source = Fixture::directory([("a", Fixture::noise(60_000, 1)), ("b", Fixture::noise(60_000, 2))]);
    back_up(&pair.from, &source).await.unwrap();
    pair.sync().await.unwrap();
    let file = pair.to.cache().directory().join("cache.db");
    let db = rusqlite::Connection::open(file).unwrap();
    // Each blob is said to be another one, which is there, too.
    let changed = db
        .execute("UPDATE ids SET here = (SELECT here FROM ids o WHERE o.there <> ids.there LIMIT 1)", [])
        .unwrap();
    assert!(changed > 4);
    source.at("a").meta.mtime.sec += 1;
    source.at("b").meta.mtime.sec += 1;
    back_up(&pair.from, &source).await.unwrap();
    assert_eq!(pair.sync().await.unwrap().copied.len(), 1);
    pair.are_equal().await;
}
